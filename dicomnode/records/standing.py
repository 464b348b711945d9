"""What a model may do at this site: the lower of its state in the database and the configuration's limit.

See docs/decisions/0029-life-of-a-model.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.records.audit import Audit, Event, Subject
from dicomnode.records.db import utc_now
from dicomnode.records.model_tables import ModelRow
from dicomnode.settings.node import ModelSettings
from inference.bundle import ModelBundle, ModelState
from inference.registry import Registry

WORKING_STATES = frozenset({ModelState.LIVE, ModelState.SHADOW})

RANK = {ModelState.RETIRED: 0, ModelState.DRAFT: 1, ModelState.SHADOW: 2, ModelState.LIVE: 3}


def state_here(session: Session, settings: ModelSettings, bundle: ModelBundle) -> ModelState:
    """What this very bundle may do here; the one place that answers this."""
    row = session.get(ModelRow, bundle.digest)
    own = ModelState(row.state) if row else _first_state(session, settings, bundle)
    return min(own, limit(settings, bundle.card.name), key=RANK.__getitem__)


def limit(settings: ModelSettings, name: str) -> ModelState:
    """The highest state that the configuration grants to any version of a model."""
    return settings.states.get(name, ModelState.LIVE)


def enrol(session: Session, audit: Audit, settings: ModelSettings, bundles: Iterable[ModelBundle]) -> None:
    """Give every bundle that was never seen its first state. Older versions must come first."""
    for bundle in bundles:
        if session.get(ModelRow, bundle.digest) is not None:
            continue
        row = ModelRow(
            digest=bundle.digest,
            name=bundle.card.name,
            version=bundle.card.version,
            state=_first_state(session, settings, bundle).value,
            changed_at=utc_now(),
            changed_by=audit.actor,
            reason="seen for the first time",
        )
        session.add(row)
        session.flush()
        told = {"model": row.name, "model_version": row.version, "model_digest": row.digest}
        audit.record(session, Event.MODEL_ENROLLED, Subject(), state=row.state, **told)


def live_row(session: Session, name: str) -> ModelRow | None:
    """The version of a model that is live in the database; there is at most one."""
    query = select(ModelRow).where(ModelRow.name == name, ModelRow.state == ModelState.LIVE.value)
    return session.scalar(query)


def missing_live(session: Session, registry: Registry, name: str) -> list[str]:
    """One sentence when the version that should serve is not in the models folder."""
    row = live_row(session, name)
    if row is None or row.digest in registry.bundles:
        return []
    return [f"the live version {name} {row.version} (digest {row.digest[:12]}) is not in {registry.folder}"]


def _first_state(session: Session, settings: ModelSettings, bundle: ModelBundle) -> ModelState:
    """The configuration's word, else the card's; beside a live version only a candidate."""
    first = settings.states.get(bundle.card.name, bundle.card.state)
    beside_live = first is ModelState.LIVE and live_row(session, bundle.card.name) is not None
    return ModelState.SHADOW if beside_live else first
