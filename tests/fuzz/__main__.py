"""`make fuzz`: many thousands of bad inputs, and what became of them, written into docs/robustness.md."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.machine import today
from tests.fuzz.child import ADDRESS_SPACE_BYTES, CASE_LIMIT_S
from tests.fuzz.guided import ATHERIS_MISSING, guide, guided_table
from tests.fuzz.targets import SHARES
from tests.fuzz.wire import attack_receiver

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "robustness.md"
CHUNK = 500
BY_CHANCE, GUIDED = "The last run by chance", "The last run guided by coverage"
WIRE_SHARE = round(1 - sum(SHARES.values()), 2)


@dataclass
class Tally:
    """What became of the cases of one target."""

    ends: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    peak_bytes: int = 0

    def count(self, seed: int, end: str, seconds: float, peak_bytes: int) -> None:
        self.ends["finding" if end.startswith("finding") else end] += 1
        if end.startswith("finding"):
            self.findings.append(f"seed {seed}: {end.removeprefix('finding: ')}")
        self.longest_s = max(self.longest_s, seconds)
        self.peak_bytes = max(self.peak_bytes, peak_bytes)


def fuzz(target: str, first_seed: int, count: int) -> Tally:
    """Run `count` cases in processes of their own; one that dies is a finding, and the next goes on."""
    tally, seed, end = Tally(), first_seed, first_seed + count
    while seed < end:
        command = [sys.executable, "-m", "tests.fuzz.child", target, str(seed), str(min(CHUNK, end - seed))]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        begun = seed
        for line in ran.stdout.splitlines():
            case = json.loads(line)
            if "begun" in case:
                begun = case["begun"]
            else:
                tally.count(case["ended"], case["end"], case["s"], case["peak_bytes"])
                seed = case["ended"] + 1
        if ran.returncode != 0:
            tally.count(begun, f"finding: the process died with {ran.returncode}: {ran.stderr[-200:]}", 0, 0)
            seed = begun + 1
    return tally


def attack(target: str, first_seed: int, count: int) -> Tally:
    """Run the cases of any target."""
    if target != "wire":
        return fuzz(target, first_seed, count)
    tally = Tally()
    attack_receiver(first_seed, count, tally.count)
    return tally


def table(tallies: dict[str, Tally]) -> str:
    """The figures of a run."""
    ends = ("refused", "parked", "taken", "finding")
    lines = [
        "| target | cases | " + " | ".join(ends) + " | longest (s) | most memory (MiB) |",
        "|---|" + "---|" * 7,
    ]
    for name, tally in tallies.items():
        counts = " | ".join(str(tally.ends[end]) for end in ends)
        figures = f"{tally.longest_s:.1f} | {tally.peak_bytes / 2**20:.0f}"
        lines.append(f"| {name} | {tally.ends.total()} | {counts} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write the figures into {PAGE.name}")
    parser.add_argument(
        "--guided", action="store_true", help="let the coverage of the code guide the changes"
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="with --guided: for each target")
    parser.add_argument("--only", choices=SHARES, help="with --guided: this target alone")
    asked = parser.parse_args()
    sys.exit(run_guided(asked) if asked.guided else run_by_chance(asked))


def run_by_chance(asked: argparse.Namespace) -> bool:
    """The cases of all targets. Returns whether anything was found."""
    shares = {**SHARES, "wire": WIRE_SHARE}
    with ThreadPoolExecutor(os.cpu_count()) as at_once:
        running = {
            target: at_once.submit(attack, target, asked.seed, round(asked.cases * share))
            for target, share in shares.items()
        }
    tallies = {target: ran.result() for target, ran in running.items()}
    print(table(tallies), *(finding for tally in tallies.values() for finding in tally.findings), sep="\n")
    if asked.write:
        limits = f"{ADDRESS_SPACE_BYTES / 2**30:.0f} GiB of address space, {CASE_LIMIT_S} s for a case"
        command = f"python -m tests.fuzz --cases {asked.cases} --seed {asked.seed} --write"
        write_section(BY_CHANCE, f"`{command}`; limits: {limits}.\n\n{table(tallies)}\n")
    return any(tally.findings for tally in tallies.values())


def run_guided(asked: argparse.Namespace) -> bool:
    """Each target in turn, guided by coverage. Returns whether anything was found."""
    if importlib.util.find_spec("atheris") is None:
        print(ATHERIS_MISSING)
        return False
    targets = [asked.only] if asked.only else list(SHARES)
    with ThreadPoolExecutor(os.cpu_count()) as at_once:
        runs = list(at_once.map(lambda target: guide(target, asked.minutes, asked.seed), targets))
    print(guided_table(runs), *(run.finding for run in runs if run.finding), sep="\n")
    if asked.write and not asked.only:
        command = f"python -m tests.fuzz --guided --minutes {asked.minutes:g} --seed {asked.seed} --write"
        write_section(GUIDED, f"`{command}`, {today()}.\n\n{guided_table(runs)}\n")
    return any(run.finding for run in runs)


def write_section(title: str, body: str) -> None:
    """Replace one section of the page, or add it; what people wrote above stays."""
    text = PAGE.read_text("utf-8")
    old = re.search(rf"^## {title}\n.*?(?=^## |\Z)", text, re.M | re.S)
    kept = text.replace(old[0], "") if old else text
    PAGE.write_text(f"{kept.rstrip()}\n\n## {title}\n\n{body}", "utf-8")


if __name__ == "__main__":
    main()
