"""Makes the model of a worker end its own process by a segmentation fault; Python imports this by itself.

Only processes whose PYTHONPATH names this folder are touched, and only series of six slices.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

POISONOUS_SLICES = 6


class _Poisoner(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "inference.predict":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_poison(module: ModuleType) -> None:
            execute(module)
            healthy = module.segment

            def segment(volume: Any, model: Any) -> Any:
                if volume.shape[0] == POISONOUS_SLICES:
                    ctypes.string_at(0)
                return healthy(volume, model)

            module.segment = segment  # type: ignore[attr-defined]

        spec.loader.exec_module = execute_and_poison  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Poisoner())
