"""Finds the bundles of a folder. Loads no torch, so routing and administration cost nothing.

Several versions of a model lie side by side, one folder each: they share a name and differ by digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from inference.bundle import CARD, ModelBundle, read_bundle
from inference.errors import BundleError

Listing = tuple[tuple[str, int, int], ...]

SHORTEST_DIGEST = 8
"""Fewer digits of a digest could be a name."""


@dataclass
class Registry:
    """All usable bundles of a folder by digest, and why the others are not."""

    folder: Path
    trusted_digests: frozenset[str] = frozenset()
    bundles: dict[str, ModelBundle] = field(default_factory=dict, init=False)
    problems: dict[Path, str] = field(default_factory=dict, init=False)
    _seen: Listing = field(default=(), init=False)

    def refresh(self) -> None:
        """Read every bundle directly below the folder, if a file has changed since the last time.

        A broken bundle is a problem, not an error.
        """
        found = _listing(self.folder)
        if found == self._seen:
            return
        bundles: dict[str, ModelBundle] = {}
        problems: dict[Path, str] = {}
        for candidate in sorted(path.parent.parent for path in self.folder.glob(f"*/{CARD}")):
            try:
                bundle = read_bundle(candidate, self.trusted_digests)
            except BundleError as error:
                problems[candidate] = str(error)
                continue
            twin = bundles.setdefault(bundle.digest, bundle)
            if twin is not bundle:
                problems[candidate] = f"the same bundle as {twin.folder.name}; remove one"
        self._seen, self.bundles, self.problems = found, bundles, problems

    @property
    def names(self) -> list[str]:
        """Names of all usable models."""
        return sorted({bundle.card.name for bundle in self.bundles.values()})

    def versions(self, name: str) -> list[ModelBundle]:
        """All bundles called `name`, the oldest version first."""
        found = [bundle for bundle in self.bundles.values() if bundle.card.name == name]
        return sorted(found, key=lambda bundle: (_numbers(bundle.card.version), bundle.digest))

    def get(self, digest: str) -> ModelBundle:
        """The bundle of this digest; a folder that came since the last look is found too.

        Raises BundleError when there is none.
        """
        if digest not in self.bundles:
            self.refresh()
        if digest not in self.bundles:
            raise BundleError(f"no usable bundle in {self.folder} has the digest {digest[:12]}; restore it")
        return self.bundles[digest]

    def find(self, reference: str) -> ModelBundle:
        """The one bundle that `NAME`, `NAME@VERSION` or the beginning of a digest means.

        Raises BundleError when none or several do.
        """
        found = [bundle for bundle in self.bundles.values() if _means(reference, bundle)]
        if len(found) == 1:
            return found[0]
        if found:
            raise BundleError(f"{reference!r} may be {_listed(found)}; write NAME@VERSION or the digest")
        known = ", ".join(self.names) or "none"
        raise BundleError(f"no model bundle is called {reference!r} (known: {known})")


def find_bundles(folder: Path, trusted_digests: frozenset[str] = frozenset()) -> Registry:
    """The registry of `folder`, read."""
    registry = Registry(folder, trusted_digests)
    registry.refresh()
    return registry


def _listing(folder: Path) -> Listing:
    """Name, time and size of every file of the bundles: what shows cheaply that one has changed."""
    files = ((path, path.stat()) for path in sorted(folder.glob("*/*/*")))
    return tuple((str(path), status.st_mtime_ns, status.st_size) for path, status in files)


def _means(reference: str, bundle: ModelBundle) -> bool:
    card = bundle.card
    by_digest = len(reference) >= SHORTEST_DIGEST and bundle.digest.startswith(reference)
    return by_digest or reference in (card.name, f"{card.name}@{card.version}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _listed(bundles: Iterable[ModelBundle]) -> str:
    return ", ".join(f"{b.card.name}@{b.card.version} ({b.digest[:12]})" for b in bundles)
