"""The text of a first `node.toml`: commented, for people to go on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.bundle import ModelCard, ModelState

ROUTED_STATES = frozenset({ModelState.LIVE, ModelState.SHADOW})


@dataclass(frozen=True)
class Answers:
    """What the administrator said."""

    ae_title: str
    port: int
    data: Path
    models: Path
    pacs_ae_title: str
    pacs_host: str
    pacs_port: int
    count_instances: bool


def configuration_text(answers: Answers, cards: Sequence[ModelCard]) -> str:
    """The file, with a route for each model that is to work, and one in comments for each other one."""
    return "\n".join([_head(answers), *(_route(card, _peer_name(answers)) for card in cards)])


def _head(answers: Answers) -> str:
    return f"""\
# The configuration of the node, written by `dicomnode init`. Prove it with: dicomnode check
# Every key, with its default, is in docs/configuration.md. Restart the node after a change.

[node]
ae_title = {_toml(answers.ae_title)}
port = {answers.port}
data = {_toml(str(answers.data))}  # images, results and the database: patient data

[listener]
minimum_free_gb = 5.0       # below this nothing more is taken, and the sender is told (A700)

[[peer]]                    # one table for each PACS, modality or workstation
name = {_toml(_peer_name(answers))}
ae_title = {_toml(answers.pacs_ae_title)}
host = {_toml(answers.pacs_host)}
port = {answers.pacs_port}
may_send = true             # it may forward studies to the node, from `host` alone ...
# networks = ["10.20.0.0/16"] # ... or from these addresses instead
count_instances = {_toml(answers.count_instances)}     # true: C-FIND asks it how many images a study has

[assembly]                  # a study is complete by the first of: the peer's count, quiet, deadline
quiet_period_s = 30.0
deadline_s = 1800.0

[models]
folder = {_toml(str(answers.models))}

# [web]                     # the web page; then: dicomnode users add NAME --role admin
# port = 8080

# [alerts]                  # messages when something is wrong
# webhook = "https://chat.example.org/hooks/..."
# mail_to = ["pacs-admin@example.org"]
# mail_from = "lesion-node@example.org"
# smtp_host = "mail.example.org"

# The first route whose conditions a series meets takes it. `dicomnode explain FOLDER` shows what they do.
"""


def _route(card: ModelCard, destination: str) -> str:
    lines = [
        "[[route]]",
        f"name = {_toml(card.title[:64])}",
        f"model = {_toml(card.name)}",
        f"destinations = [{_toml(destination)}]",
        f"select = {_toml('all' if card.modality == 'US' else 'best')}",
        "[route.when]",
        f"modality = {_toml(card.modality)}",
        *(f"{condition} = {_toml(_wanted(wanted))}" for condition, wanted in card.routing_hints.items()),
        "derived = false",
    ]
    if card.state in ROUTED_STATES:
        return "\n".join([*lines, ""])
    return "\n".join(
        [f"# {card.name} is {card.state}: it does not run yet.", *(f"# {line}" for line in lines), ""]
    )


def _wanted(hint: str) -> Any:
    """Hints are texts; those for yes or no are written as such."""
    return {"yes": True, "no": False}.get(hint, hint.removeprefix("(?i)"))


def _peer_name(answers: Answers) -> str:
    return answers.pacs_ae_title.strip()


def _toml(value: Any) -> str:
    """A basic string or a boolean; JSON's are TOML's (TOML 1.0, strings)."""
    return json.dumps(value, ensure_ascii=False)
