"""Finds the bundles of a folder. Loads no torch, so routing and administration cost nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inference.bundle import CARD, ModelBundle, read_bundle
from inference.errors import BundleError


@dataclass(frozen=True)
class Registry:
    """All usable bundles by name, and why the others are not."""

    bundles: dict[str, ModelBundle]
    problems: dict[Path, str]

    def get(self, name: str) -> ModelBundle:
        """The bundle called `name`; raises BundleError listing the known names."""
        if name not in self.bundles:
            known = ", ".join(sorted(self.bundles)) or "none"
            raise BundleError(f"no model bundle is called {name!r} (known: {known})")
        return self.bundles[name]


def find_bundles(folder: Path, trusted_digests: frozenset[str] = frozenset()) -> Registry:
    """Read every bundle directly below `folder`. A broken one is a problem, not an error."""
    bundles: dict[str, ModelBundle] = {}
    problems: dict[Path, str] = {}
    for candidate in sorted(path.parent.parent for path in folder.glob(f"*/{CARD}")):
        try:
            bundle = read_bundle(candidate, trusted_digests)
        except BundleError as error:
            problems[candidate] = str(error)
            continue
        if bundle.card.name in bundles:
            problems[candidate] = f"a second bundle is called {bundle.card.name!r}; rename one"
            continue
        bundles[bundle.card.name] = bundle
    return Registry(bundles, problems)
