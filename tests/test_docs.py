"""The documentation names what the code knows, no more and no less.

Not covered: whether the sentences are true. Names, defaults, moves and links are.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import dicomnode.__main__
import training.__main__
from dicomnode.deliver.answers import C_STORE_STATUSES, Fate
from dicomnode.receive.syntaxes import TRANSFER_SYNTAXES
from dicomnode.records.audit import Event
from dicomnode.records.states import MOVES, BreakerState, DeliveryState, JobState, StudyState
from dicomnode.settings.node import Settings
from dicomnode.settings.section import Conditions
from inference.bundle import ModelState

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def test_the_configuration_page_has_exactly_the_keys_of_the_settings() -> None:
    assert set(documented_defaults()) == {key for key, _ in leaf_keys(Settings)}


def test_the_configuration_page_states_the_true_defaults() -> None:
    documented = documented_defaults()
    assert {key: documented[key] for key, _ in leaf_keys(Settings)} == {
        key: default_of(field) for key, field in leaf_keys(Settings)
    }


@pytest.mark.parametrize(
    ("program", "app"), [("dicomnode", dicomnode.__main__.app), ("dicomtrain", training.__main__.app)]
)
def test_the_commands_page_has_a_section_for_exactly_the_commands(program: str, app: typer.Typer) -> None:
    headings = re.findall(rf"^### `({program} [a-z -]+)`$", page("commands.md"), re.M)
    assert sorted(headings) == sorted(commands(program, typer.main.get_command(app)))


def test_the_audit_page_explains_exactly_the_events() -> None:
    assert sorted(first_cells(page("audit.md"))) == sorted(event.value for event in Event)


def test_every_event_is_named_by_a_test() -> None:
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"""["']([a-z_]+)["']""", tests)) | {
        name.lower() for name in re.findall(r"Event\.([A-Z_]+)", tests)
    }
    assert {event.value for event in Event} <= named


@pytest.mark.parametrize(
    ("heading", "states"),
    [
        ("Study", StudyState),
        ("Job", JobState),
        ("Delivery", DeliveryState),
        ("Destination", BreakerState),
        ("Model", ModelState),
    ],
)
def test_the_states_page_has_exactly_the_states_and_moves_of_the_code(heading: str, states: Any) -> None:
    section = page("states.md").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    described, moves = section.split("\n### Moves\n")
    assert sorted(first_cells(described)) == sorted(state.value for state in states)
    written = set(re.findall(r"^\| `([a-z_]+)` \| `([a-z_]+)` \|", moves, re.M))
    assert sorted(written) == sorted((a.value, b.value) for a, b in MOVES if isinstance(a, states))


def test_the_conformance_statement_lists_exactly_the_transfer_syntaxes_of_the_listener() -> None:
    listed = set(re.findall(r"1\.2\.840\.10008\.1\.2(?![0-9])[0-9.]*", page("conformance.md")))
    assert listed == {str(syntax) for syntax in TRANSFER_SYNTAXES}


def test_the_conformance_statement_has_the_table_of_statuses_of_the_code() -> None:
    words = {
        Fate.ACCEPTED: "delivered",
        Fate.TRY_LATER: "tried later",
        Fate.REFUSED: "refused for good",
    }
    written = re.findall(
        r"^\| ([0-9A-F]{4})(?: to ([0-9A-F]{4}))? \| ([^|]+) \| ([^|]+) \|", page("conformance.md"), re.M
    )
    answered = [row for row in written if row[3].strip() in words.values()]
    assert [(int(a, 16), int(b or a, 16), meaning, fate) for a, b, meaning, fate in answered] == [
        (known.first, known.last, known.meaning, words[known.fate]) for known in C_STORE_STATUSES
    ]


def test_the_security_page_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", page("security.md")))
    assert named
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_every_promise_of_the_reliability_page_names_a_test_that_exists() -> None:
    promises = page("reliability.md").split("\n## Promises\n")[1].split("\n## ")[0]
    rows = [row for row in re.findall(r"^\| (.+) \| (.*) \|$", promises, re.M) if not row[0].startswith("**")]
    named = {promise: re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", test) for promise, test in rows[1:]}
    assert len(named) > 30
    for promise, test in named.items():
        assert test, promise
        assert f"def {test[2]}(" in (ROOT / "tests" / test[1]).read_text("utf-8"), promise


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text("utf-8")):
        assert "://" in target or (path.parent / target).exists(), f"{path.name} links to {target}"


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def first_cells(text: str) -> list[str]:
    """The code words in the first column of every table."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.M)


def documented_defaults() -> dict[str, str]:
    """Default (third column) by key (first column) of the configuration page."""
    rows = re.findall(r"^\| `([a-z_.]+)` \| [^|]+ \| ([^|]+) \|", page("configuration.md"), re.M)
    return {key: default.strip().strip("`") for key, default in rows}


def leaf_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a section and of those below it, as the dotted name that TOML gives it."""
    for name, field in model.model_fields.items():
        below = section_in(field.annotation)
        if below is None or (below is Conditions and prefix != "route."):  # described with routes
            yield prefix + name, field
        else:
            yield from leaf_keys(below, f"{prefix}{name}.")


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation holds: itself, in a tuple, or optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (tuple, types.UnionType, typing.Union):
        return next((found for part in typing.get_args(annotation) if (found := section_in(part))), None)
    return None


def default_of(field: FieldInfo) -> str:
    """The default as TOML writes it."""
    return "required" if field.is_required() else as_toml(field.default)


def as_toml(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        return f'"{value}"'
    if isinstance(value, tuple | frozenset):
        return f"[{', '.join(as_toml(item) for item in value)}]"
    return str(value)


def commands(program: str, command: Any) -> Iterator[str]:
    """The full names of all commands below a command of typer."""
    below = getattr(command, "commands", None)
    if below is None:
        yield program
        return
    for name, found in below.items():
        yield from commands(f"{program} {name}", found)
