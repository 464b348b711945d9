"""`make scale`: measure costs, check the simulation against the real node, and write docs/scale.md.

python -m tests.scale measure     what the benchmark does not tell of an image and a job, into docs/scale.json
python -m tests.scale check       a small load on the real node beside what the simulation says
python -m tests.scale simulate    one hospital, twenty, a country; with --write docs/scale.md
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from tests.bench import page as benchmark_page
from tests.scale.benchmark import costs_of, sources
from tests.scale.check import check_prediction
from tests.scale.costs import read_known, write_known
from tests.scale.measure import measure
from tests.scale.page import write_page


def main() -> None:
    """One of the three steps, or all in turn."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description="How far the node grows.")
    parser.add_argument("step", choices=("measure", "check", "simulate", "all"))
    parser.add_argument("--studies", type=int, default=40, help="of the check")
    parser.add_argument("--utilisation", type=float, default=0.6, help="of the worker in the check")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/scale.json or docs/scale.md")
    asked = parser.parse_args()
    command = shlex.join(["python", "-m", "tests.scale", *sys.argv[1:]])
    known, results = read_known(), benchmark_page.read()
    try:
        stages = sources(results)
    except LookupError as error:
        parser.error(str(error))
    if asked.step in ("measure", "all"):
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            known = known.model_copy(update={"measured": measure(Path(folder))})
        print(known.measured)
    if known.measured is None:
        parser.error("no costs yet: run `python -m tests.scale measure --write` first")
    costs = costs_of(results, known.measured)
    if asked.step in ("check", "all"):
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            found = check_prediction(
                Path(folder), costs, asked.studies, asked.utilisation, asked.seed, command
            )
        known = known.model_copy(update={"prediction": found})
        print(found)
    if asked.write and asked.step != "simulate":
        write_known(known)
    if asked.step in ("simulate", "all"):
        write_page(costs, stages, known.prediction, asked.seed, asked.write)


if __name__ == "__main__":
    main()
