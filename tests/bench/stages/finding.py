"""Files to results: what the whole work on one CT takes, and above all how much memory, as it grows."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from dicomnode.records.db import utc_now
from dicomnode.selftest.bundles import write_bundle
from dicomnode.study import Series, read_instance
from dicomnode.work.engine import LocalEngine
from dicomnode.work.pipeline import Assignment, Findings, process_series
from inference.bundle import ModelBundle, read_bundle
from tests.bench import chest_ct
from tests.bench.harness import AtMost, Case, Contender, Reading, Run, Setting, Stage
from tests.bench.memory import peak_mib

SLICES = (100, 500, 1000, 2000)
LESIONS = 20
PEAK = "peak memory (MiB)"
MOST_MIB = 4 * 1024
"""For 2000 slices of 512 x 512: 2 MiB a slice, of which the image has half of one."""
NODE = "node"


def work(series: Series, bundle: ModelBundle) -> Findings:
    """All that a worker does with one series, but for the database and the files of results."""
    segmenter = LocalEngine("cpu").segmenter(bundle, frozenset([bundle.digest]))
    assignment = Assignment(series, segmenter, bundle.card, bundle.digest, 1, utc_now())
    return process_series(assignment, lambda stage: nullcontext())


def measure(folder: Path, bundle_folder: Path) -> tuple[float, float]:
    """Seconds and MiB of a CT that lies in `folder`; a few slices of it go first."""
    bundle, paths = read_bundle(bundle_folder), sorted(folder.iterdir())
    instances = tuple(read_instance(path, sha256=f"{number:064d}") for number, path in enumerate(paths))
    work(Series(instances[:40]), bundle)
    seconds = []

    def found() -> None:
        start = time.perf_counter()
        lesions = work(Series(instances), bundle).measurements
        seconds.append(time.perf_counter() - start)
        if len(lesions) != LESIONS:
            raise ValueError(f"{len(lesions)} lesions were found, {LESIONS} are there")

    peak = peak_mib(found)
    return seconds[0], peak


def cases(setting: Setting) -> Iterator[Case]:
    how = {"spacing_mm": [None, 0.7, 0.7]}
    bundle = write_bundle(setting.folder / "bundle", context_slices=2, preprocessing=how)
    for slices in setting.choose((40,), SLICES[:2], SLICES):
        folder = setting.folder / f"ct{slices}"
        chest_ct.write(chest_ct.volume(chest_ct.lesion_map(LESIONS, slices)), folder)
        yield Case(
            f"{slices} slices",
            (Contender(NODE, _alone(folder, bundle), warm_up=False),),
            goals=(AtMost(NODE, MOST_MIB, PEAK),),
            count=slices,
            unit="slices",
            at=("slices", slices),
        )
        shutil.rmtree(folder)


def _alone(folder: Path, bundle: Path) -> Callable[[], AbstractContextManager[Run]]:
    """In a process of its own, which tells its peak above what it had before."""

    @contextmanager
    def opened() -> Iterator[Run]:
        def run() -> Reading:
            command = [sys.executable, "-m", __name__, str(folder), str(bundle)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds, peak = map(float, said.split()[-2:])
            return Reading(seconds, {PEAK: peak})

        yield run

    return opened


STAGE = Stage(
    "finding",
    "Files to results",
    "All that a worker does with one CT of 512 x 512 pixels and 20 lesions: reading, resampling to 0.7 mm, "
    "a small 2-D network that sees five slices, resampling back, components, measurements, the segmentation "
    "and both reports, read back and compared. The network works in slabs of 64 slices, whose memory does "
    "not grow. Memory is what a process that has done it with 40 slices takes more at its peak.",
    cases,
    rounds=1,
)

if __name__ == "__main__":
    sys.stdout.write("{} {}\n".format(*measure(Path(sys.argv[1]), Path(sys.argv[2]))))
