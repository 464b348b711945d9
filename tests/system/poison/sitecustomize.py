"""Makes the model of a worker kill or block its own process; Python imports this by itself when it starts.

Only processes whose PYTHONPATH names this folder are touched. What happens is said by the number of slices
that the series has, so that each series of a test brings its own fate.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def _segfault() -> None:
    ctypes.string_at(0)


def _sleep() -> None:
    time.sleep(10_000.0)


def _sleep_with_the_interpreter() -> None:
    """As native code that never gives the interpreter back."""
    ctypes.PyDLL(None).sleep(10_000)


FATES: dict[int, Callable[[], None]] = {
    6: _segfault,
    7: _sleep,
    8: _sleep_with_the_interpreter,
}
"""By the number of slices."""


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
                FATES.get(volume.shape[0], lambda: None)()
                return healthy(volume, model)

            module.segment = segment  # type: ignore[attr-defined]

        spec.loader.exec_module = execute_and_poison  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Poisoner())
