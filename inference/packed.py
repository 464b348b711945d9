"""A model bundle as bytes in memory, for a machine that has not got its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference.bundle import CARD, NETWORK, ModelBundle, read_bundle
from inference.errors import BundleError

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PackedBundle:
    """The files of a bundle that are needed to run it, by their place in its folder."""

    digest: str
    trusted: bool
    files: dict[str, Bytes]


def pack(bundle: ModelBundle) -> PackedBundle:
    """Read the files of a bundle. Raises OSError when one is gone."""
    names = (CARD, NETWORK, bundle.card.weights)
    files = {name: np.fromfile(bundle.folder / name, dtype=np.uint8) for name in names}
    return PackedBundle(bundle.digest, bundle.trusted, files)


def unpack(packed: PackedBundle, folder: Path) -> ModelBundle:
    """Write the files below `folder` and read them as a bundle.

    Raises BundleError when a name leads out of the folder, or the bundle is not the one that it says it is.
    """
    root = folder.resolve()
    for name, content in packed.files.items():
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise BundleError(f"bundle {packed.digest[:12]} names a file outside of its folder: {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        content.tofile(path)
    bundle = read_bundle(root, frozenset([packed.digest]) if packed.trusted else frozenset())
    if bundle.digest != packed.digest:
        raise BundleError(f"bundle {packed.digest[:12]} arrived as {bundle.digest[:12]}; send it again")
    return bundle
