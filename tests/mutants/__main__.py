"""`make mutate`: break each promise in a copy of the tree and see its test fail."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "demo", "data", "var")
PASSED, FAILED = 0, 1
"""Exit statuses of pytest; any other means that the test did not run as a test."""


def run_tests(root: Path, *tests: str) -> int:
    """Run tests on the code below `root`; returns pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(root), "CI": "1"}  # CI: a skipped test proves nothing
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode not in (PASSED, FAILED):
        print(ran.stdout[-2000:], ran.stderr[-2000:], sep="\n")
    return ran.returncode


def verdict(mutant: Mutant, root: Path) -> str:
    """What became of one mutant: "killed", "survived" or "no test"."""
    original = mutant.apply(root)
    try:
        status = run_tests(root, mutant.test)
    finally:
        (root / mutant.file).write_text(original, "utf-8")
    return {PASSED: "survived", FAILED: "killed"}.get(status, "no test")


def main() -> int:
    """Print a table; fails when a mutant survives, or when a test fails without any mutant."""
    parser = argparse.ArgumentParser(prog="make mutate")
    parser.add_argument("names", nargs="*", help="only these mutants")
    names = parser.parse_args().names
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(shutil.copytree(ROOT, Path(folder) / "tree", ignore=LEFT_OUT))
        if run_tests(root, *sorted({mutant.test for mutant in chosen})) != PASSED:
            print("a test fails on the code as it is; mend that first")
            return 1
        print("| mutant | what it breaks | verdict | test |\n|---|---|---|---|", flush=True)
        verdicts = []
        for mutant in chosen:
            verdicts.append(verdict(mutant, root))
            test = mutant.test.rpartition("::")[2]
            print(f"| {mutant.name} | {mutant.promise} | {verdicts[-1]} | {test} |", flush=True)
    return int(set(verdicts) != {"killed"})


if __name__ == "__main__":
    sys.exit(main())
