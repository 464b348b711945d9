"""All versions of all models that this node knows, with what they may do and have done."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicomnode.models.agreement import Usage, usage
from dicomnode.records.model_tables import ComparisonRow, ModelRow
from dicomnode.records.standing import RANK, limit
from dicomnode.settings.node import ModelSettings
from inference.bundle import ModelBundle, ModelState
from inference.registry import Registry


@dataclass(frozen=True)
class Version:
    """One version of a model. Without a bundle its folder is gone."""

    row: ModelRow
    bundle: ModelBundle | None
    state: ModelState
    """What it may do here; lower than in the database where the configuration limits it."""
    usage: Usage

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.row.name} {self.row.version}"


def known_versions(session: Session, settings: ModelSettings, registry: Registry) -> list[Version]:
    """By name; the live one first, then candidates, the newest change first."""
    used = usage(session)
    versions = [
        Version(
            row=row,
            bundle=registry.bundles.get(row.digest),
            state=min(ModelState(row.state), limit(settings, row.name), key=RANK.__getitem__),
            usage=used.get(row.digest, Usage()),
        )
        for row in session.scalars(select(ModelRow).order_by(ModelRow.changed_at.desc()))
    ]
    return sorted(versions, key=lambda version: (version.row.name, -RANK[version.state]))


def compared_with(session: Session, candidate_digest: str) -> list[str]:
    """Digests of the live versions that a candidate was compared with, the latest first."""
    rows = session.scalars(
        select(ComparisonRow.live_digest)
        .where(ComparisonRow.candidate_digest == candidate_digest, ComparisonRow.compared_at.is_not(None))
        .order_by(ComparisonRow.id.desc())
    )
    return list(dict.fromkeys(rows))
