"""`make bench`: every stage against its peers.

    python -m tests.bench [--only STAGE]... [--rounds N] [--quick] [--device DEVICE] [--write] [--list]

Without `--write` the tables are only printed; with it docs/performance.md and docs/performance.json get the
stages that were measured, and keep the others. `--quick` takes small data and three rounds. `--device cuda:1`
lets the networks of the stage `inference` run there; by itself it takes the first GPU where there is one.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.bench import page, stages
from tests.bench.harness import Setting, Size, Stage, measure
from tests.bench.machine import commit, machine, today
from tests.bench.results import Results, StageResult

QUICK_ROUNDS = 3


def all_stages() -> dict[str, Stage]:
    """Every stage by name, in the order of their modules."""
    modules = pkgutil.iter_modules(stages.__path__)
    found = [importlib.import_module(f"{stages.__name__}.{module.name}") for module in modules]
    return {module.STAGE.name: module.STAGE for module in found if hasattr(module, "STAGE")}


def run_stage(stage: Stage, size: Size, rounds: int, command: str, device: str = "auto") -> StageResult:
    """Measure all cases of a stage, and print each table when it is there."""
    where, cases = machine(), []
    with tempfile.TemporaryDirectory(prefix=f"bench-{stage.name}-") as folder:
        for case in stage.cases(Setting(size, Path(folder), device)):
            found = measure(case, rounds)
            cases.append(found)
            print(
                f"\n{stage.title}: {case.name}", *page.table(found), *page.goals(found), sep="\n", flush=True
            )
    return StageResult(
        name=stage.name,
        title=stage.title,
        what=stage.what,
        command=command,
        date=today(),
        commit=commit(),
        machine=where,
        cases=cases,
    )


def main(arguments: Sequence[str] | None = None, docs: Path = page.DOCS) -> int:
    """Run what is asked for; a stage that fails is told of, and the others go on."""
    known = all_stages()
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure stages against peers."
    )
    parser.add_argument("--only", action="append", choices=sorted(known), help="this stage (may be repeated)")
    parser.add_argument("--rounds", type=int, help="rounds instead of each stage's own number")
    parser.add_argument("--quick", action="store_true", help="small data and three rounds")
    parser.add_argument("--device", default="auto", help="where networks run: auto, cpu, cuda:0, ...")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and .json")
    parser.add_argument("--list", action="store_true", help="only name the stages")
    asked = parser.parse_args(arguments)
    if asked.list:
        print(*(f"{stage.name:16}{stage.title}" for stage in known.values()), sep="\n")
        return 0
    size = Size.QUICK if asked.quick else Size.FULL
    rounds = asked.rounds or (QUICK_ROUNDS if asked.quick else None)
    command = shlex.join(["python", "-m", "tests.bench", *(sys.argv[1:] if arguments is None else arguments)])
    failed = []
    for stage in (known[name] for name in asked.only or known):
        try:
            found = run_stage(stage, size, rounds or stage.rounds, command, asked.device)
        except Exception:  # the other stages are still worth measuring; the exit code tells
            traceback.print_exc()
            failed.append(stage.name)
            continue
        if asked.write:
            page.write(Results(stages={**page.read(docs).stages, stage.name: found}), docs)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
