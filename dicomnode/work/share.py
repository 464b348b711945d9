"""Which jobs a worker takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The models whose jobs a worker takes: the named ones, or all others."""

    names: frozenset[str] = frozenset()
    others: bool = True

    def has(self, name: str) -> bool:
        """Whether jobs of this model belong to it."""
        return (name in self.names) is not self.others


EVERYTHING = Share()
