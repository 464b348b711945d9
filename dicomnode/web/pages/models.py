"""Models: what each version may do, how a candidate agrees with the live one, and changing that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from sqlalchemy.orm import Session
from starlette.responses import Response

from dicomnode.errors import NodeError
from dicomnode.models.agreement import Agreement, agreement
from dicomnode.models.life import HIGHER, LOWER, Life
from dicomnode.models.versions import Version, compared_with, known_versions
from dicomnode.records.model_tables import ModelRow
from dicomnode.show.agreement import counted, volumes_told
from dicomnode.show.bland_altman import bland_altman_svg
from dicomnode.show.card import card_figures
from dicomnode.web.access import page
from dicomnode.web.site import Right, Visit
from inference.bundle import ModelBundle, ModelState
from inference.errors import InferenceError

Change = Callable[[Life, Session, ModelBundle, str], ModelRow]

CHANGES: dict[str, Change] = {
    "promote": lambda life, session, bundle, reason: life.promote(session, bundle, reason),
    "demote": lambda life, session, bundle, reason: life.demote(session, bundle, reason),
    "retire": lambda life, session, bundle, reason: life.retire(session, bundle, reason),
    "rollback": lambda life, session, bundle, reason: life.rollback(session, bundle.card.name, reason),
}


@dataclass(frozen=True)
class Pair:
    """A version as candidate, and one that was live at the time."""

    live: Version
    found: Agreement

    @property
    def sentences(self) -> list[str]:
        """What no table says."""
        volumes = [volumes_told(self.found.volumes)] if self.found.volumes else []
        return [counted(self.found), *volumes]

    @property
    def plot(self) -> Markup | None:
        """The volumes as a picture."""
        if self.found.volumes is None:
            return None
        return Markup(bland_altman_svg(self.found.volumes))


def show_models(visit: Visit) -> Response:
    """Every version that the node knows."""
    versions = _versions(visit)
    problems = [(folder.name, why) for folder, why in visit.site.registry.problems.items()]
    return visit.page("models.html", versions=versions, problems=problems)


def show_model(visit: Visit) -> Response:
    """One version, and how it agrees with what was live."""
    versions = {version.row.digest: version for version in _versions(visit)}
    version = versions.get(visit.part("digest"))
    if version is None:
        return visit.not_found("No model of this node has this digest.")
    with visit.site.database.snapshot() as session:
        pairs = [
            Pair(versions[live], agreement(session, live, version.row.digest))
            for live in compared_with(session, version.row.digest)
            if live in versions
        ]
    figures = card_figures(version.bundle.card.metrics) if version.bundle else []
    return visit.page("model.html", version=version, pairs=pairs, figures=figures, changes=_changes(version))


def ask_change(visit: Visit) -> Response:
    """Ask for the reason and a confirmation."""
    return _ask(visit)


def change(visit: Visit) -> Response:
    """Do it, if the reason was given and the box ticked."""
    what, digest = visit.part("change"), visit.part("digest")
    if what not in CHANGES:
        return visit.not_found("There is no such change.")
    if visit.form.get("sure") != "yes":
        return _ask(visit, "Tick the box to confirm.")
    life = Life(visit.site.settings, visit.site.registry, visit.audit)
    try:
        bundle = life.registry.get(digest)
        with visit.site.database.transaction() as session:
            CHANGES[what](life, session, bundle, visit.form.get("reason", "").strip())
    except (NodeError, InferenceError) as error:
        return _ask(visit, f"Not done: {error}.")
    return visit.back_to(f"/models/{digest}", "changed")


def _ask(visit: Visit, problem: str = "") -> Response:
    found = [version for version in _versions(visit) if version.row.digest == visit.part("digest")]
    what = visit.part("change")
    if not found or what not in CHANGES:
        return visit.not_found("There is no such change.")
    return visit.page(
        "model_change.html",
        400 if problem else 200,
        version=found[0],
        change=what,
        after=_changes(found[0]).get(what, ""),
        problem=problem,
        reason=visit.form.get("reason", ""),
    )


def _changes(version: Version) -> dict[str, str]:
    """What can be done with a version, and what follows, in words."""
    state = ModelState(version.row.state)
    words: dict[str, str] = {}
    if state in HIGHER:
        words["promote"] = {
            ModelState.SHADOW: "It looks at the series of its routes when there is time; nothing is sent.",
            ModelState.LIVE: "Its results are sent from now on. What is live of this name until now is "
            "retired, and its open jobs go to this version.",
        }[HIGHER[state]]
    if state in LOWER:
        words["demote"] = {
            ModelState.SHADOW: "Nothing is sent any more by this name until a version is promoted.",
            ModelState.DRAFT: "It looks at nothing any more.",
        }[LOWER[state]]
    if state is ModelState.LIVE:
        words["rollback"] = "The version whose place this one took serves again, and this one is retired."
    if state is not ModelState.RETIRED:
        words["retire"] = "It does nothing any more; its open jobs end."
    return words


def _versions(visit: Visit) -> list[Version]:
    """What is known; bundles that are new in the folder are enrolled by looking at them."""
    site = visit.site
    site.registry.refresh()
    with site.database.snapshot() as session:
        versions = known_versions(session, site.settings.models, site.registry)
    if site.registry.bundles.keys() <= {version.row.digest for version in versions}:
        return versions
    with site.database.transaction() as session:
        Life(site.settings, site.registry, visit.audit).enrol(session)
        return known_versions(session, site.settings.models, site.registry)


ROUTES: tuple[Any, ...] = (
    page("/models", show_models, Right.SEE),
    page("/models/{digest}", show_model, Right.SEE),
    page("/models/{digest}/{change}", ask_change, Right.ACT),
    page("/models/{digest}/{change}", change, Right.ACT, ("POST",)),
)
