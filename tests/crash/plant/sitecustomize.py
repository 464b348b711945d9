"""Plants kill points into a process of the node; Python imports this by itself when it starts.

Only processes whose PYTHONPATH names this folder are touched, so the node's own code knows nothing of it.
KILL_POINTS names a folder: `points.json` in it says where the points are. A point is armed by a file
`armed/<point>` that holds the number of the call and the signal; the process that fires renames it
into `fired/`, so that every point fires once.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

Function = Callable[..., Any]


class Point:
    """One place in the code at which this process may die."""

    def __init__(self, folder: Path, name: str, role: str, target: str, when: str) -> None:
        self.module, _, self.attribute = target.partition(":")
        self._armed, self._fired = folder / "armed" / name, folder / "fired" / name
        self._role, self._when, self._passed = role, when, 0

    def wrap(self, function: Function) -> Function:
        """`function` with this point before it, after it, or at a byte that it receives."""
        if self._when == "byte":
            return self._wrap_receiving(function)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if self._when == "before":
                self._pass(1)
            result = function(*arguments, **keywords)
            if self._when == "after":
                self._pass(1)
            return result

        return wrapped

    def _wrap_receiving(self, receive: Function) -> Function:
        """`socket.recv_into` that takes no byte more than those before the end."""

        @functools.wraps(receive)
        def wrapped(channel: Any, place: Any, *more: Any) -> Any:
            order = self._order()
            left = order["nth"] - self._passed if order else len(place)
            count = receive(channel, memoryview(place)[: max(1, left)], *more)
            self._pass(count)
            return count

        return wrapped

    def _order(self) -> dict[str, Any] | None:
        """What this process was told to do; None while the point is not armed, or not for its role."""
        if self._role not in sys.argv[1:2]:
            return None
        try:
            order: dict[str, Any] = json.loads(self._armed.read_text())
        except FileNotFoundError:
            self._passed = 0
            return None
        return order

    def _pass(self, count: int) -> None:
        if (order := self._order()) is None:
            return
        self._passed += count
        if self._passed >= order["nth"]:
            self._fire(order["signal"])

    def _fire(self, order: str) -> None:
        try:
            self._armed.rename(self._fired)
        except FileNotFoundError:  # another thread or process was faster
            return
        if order == "power":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        if order == "pause":  # not to the process, which would go on until another thread takes the signal
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        else:
            os.kill(os.getpid(), signal.SIGKILL)


class Planter(importlib.abc.MetaPathFinder):
    """Wraps the functions of a module as soon as it has been loaded."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders give, with a loader that plants."""
        if not any(point.module == name for point in self._points):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_plant(module: ModuleType) -> None:
                load(module)
                self.plant(module)

            spec.loader.exec_module = load_and_plant  # type: ignore[method-assign]
        return spec

    def plant(self, module: ModuleType) -> None:
        """Wrap what the points of this module name."""
        for point in self._points:
            if point.module == module.__name__:
                *path, last = point.attribute.split(".")
                owner = functools.reduce(getattr, path, module)
                setattr(owner, last, point.wrap(getattr(owner, last)))


if "KILL_POINTS" in os.environ:
    FOLDER = Path(os.environ["KILL_POINTS"])
    PLANTER = Planter(
        [Point(FOLDER, **values) for values in json.loads((FOLDER / "points.json").read_text())]
    )
    sys.meta_path.insert(0, PLANTER)
    PLANTER.plant(os)
