"""A network compiled by torch for windows of the training size: the same answers in fewer passes over memory.

Compiling needs one shape, so it is for networks that see windows of one shape; the record of this decision
(docs/decisions/0059) has the figures. It takes up to a minute for each network, seconds where its result is
kept from an earlier start, and nothing is ever compiled in the time of a study.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from inference.errors import NotCompiled

MOST_SAID = 300
"""Characters of what a compiler says of its failure: it may be pages."""

Backend = str | Callable[..., Any]
Step = Callable[[torch.Tensor], torch.Tensor]


def keep_compiled_in(folder: Path) -> None:
    """Let what torch compiles be kept in `folder`, made for this user alone: what lies there is run.

    Raises OSError. To be called before anything is compiled.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # else a pool of processes stays beside the worker


class Compiled:
    """Calls `network` compiled for batches (n, channel, ...) of windows of one size, `plain` for all others.

    To be made and called in inference mode, and under the autocast that it will be called under: torch
    compiles for both.
    """

    def __init__(
        self, network: torch.nn.Module, plain: Step, windows: torch.Tensor, backend: Backend = "inductor"
    ) -> None:
        """Compile `network` for batches of at least two, as `windows` are, and for single windows.

        Raises NotCompiled when that fails.
        """
        self._plain = plain
        self._shape = windows.shape[1:]
        try:
            # isolated, else networks of one class share a limit of compiled forms and lose them
            self._translated = torch.compile(  # type: ignore[call-overload]  # its types do not know the last
                network, backend=backend, fullgraph=True, isolate_recompiles=True
            )
            several = _copied(windows)
            torch._dynamo.mark_dynamic(several, 0)
            self._translated(several)
            self._translated(_copied(windows[:1]))
        except Exception as error:  # whatever a compiler, its tools or the code that it made may raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:MOST_SAID]
            raise NotCompiled(f"the network could not be compiled ({reason})") from error

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        if batch.shape[1:] != self._shape:
            return self._plain(batch)
        with torch.compiler.set_stance("eager_on_recompile"):
            logits: torch.Tensor = self._translated(_copied(batch))
        return logits


def _copied(batch: torch.Tensor) -> torch.Tensor:
    """As what is compiled expects it: values side by side, and made in inference mode."""
    return batch.clone(memory_format=torch.contiguous_format)
