"""The report folder: it says what test.json says, shows it, and needs nothing from elsewhere."""

from __future__ import annotations

import csv
import json
import re
from base64 import b64decode
from pathlib import Path
from statistics import fmean, median

import numpy as np
import pytest
import torch

from tests.training.comparisons import EMPTY, write_comparison
from training.compare import run_jobs
from training.comparison import Comparison, read_comparison
from training.report.document import Block, Heading, Picture, Table, Text, to_markdown
from training.report.entries import Results
from training.report.overlays import picked, view
from training.report.page import to_html
from training.report.tables import compared, pairs_table
from training.report.write import write_report
from training.results import Evaluation

COMMAND = "dicomtrain compare compare.toml --out OUT"
pytestmark = pytest.mark.slow  # fits six tiny models
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    torch.set_num_threads(1)
    return read_comparison(write_comparison(tmp_path_factory.mktemp("comparison")))


@pytest.fixture(scope="module")
def out(comparison: Comparison) -> Path:
    folder = comparison.path.parent / "out"
    assert all(o.state == "done" for o in run_jobs(comparison.jobs, folder, lambda *_: None))
    return folder


@pytest.fixture(scope="module")
def results(comparison: Comparison, out: Path) -> Results:
    return write_report(comparison, out, COMMAND)


def stored(out: Path, protocol: str, network: str) -> Evaluation:
    path = out / "runs/square" / protocol / network / "test.json"
    return Evaluation.from_plain(json.loads(path.read_text())["evaluation"])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("results")
def test_results_csv_holds_the_numbers_of_every_test_json(out: Path) -> None:
    lines = rows(out / "report/results.csv")
    for protocol in ("paper", "best"):
        for network in ("unet", "fcn", "handcrafted"):
            evaluation = stored(out, protocol, network)
            of_it = [r for r in lines if (r["protocol"], r["network"]) == (protocol, network)]
            for label in evaluation.label_names:
                (line,) = [r for r in of_it if (r["label"], r["cases"], r["metric"]) == (label, "all", "iou")]
                values = [value for value in evaluation.values("iou", label) if value is not None]
                assert float(line["mean"]) == pytest.approx(fmean(values))
                assert float(line["median"]) == pytest.approx(median(values))
                assert float(line["mean_low"]) <= float(line["mean"]) <= float(line["mean_high"])
                assert int(line["n"]) == 8
            (mean,) = [
                r
                for r in of_it
                if (r["label"], r["cases"], r["metric"]) == ("mean over labels", "all", "dice")
            ]
            assert float(mean["mean"]) == pytest.approx(evaluation.mean_dice())


@pytest.mark.usefixtures("results")
def test_cases_without_truth_are_told_apart(out: Path) -> None:
    lines = [r for r in rows(out / "report/results.csv") if r["metric"] == "dice"]
    assert {(r["cases"], r["n"]) for r in lines} == {("all", "8"), ("with truth", "7")}


@pytest.mark.usefixtures("results")
def test_cases_csv_holds_every_case_and_label(out: Path) -> None:
    lines = rows(out / "report/cases.csv")
    assert len(lines) == 6 * 8 * 2
    evaluation = stored(out, "best", "fcn")
    found = [float(r["dice"]) for r in lines if (r["protocol"], r["network"]) == ("best", "fcn")]
    assert found == [label.agreement.dice for case in evaluation.cases for label in case.labels]


@pytest.mark.usefixtures("results")
def test_the_readme_says_how_it_was_made_and_shows_every_table(out: Path) -> None:
    text = (out / "report/README.md").read_text(encoding="utf-8")
    digest = json.loads((out / "runs/square/best/fcn/test.json").read_text())["data_digest"]
    for part in (COMMAND, digest, f"torch {torch.__version__}", "4 steps", "Empty masks count",
                 "Bright square", "mean over labels", "Surface Dice", "Hausdorff, px", "HD95, px",
                 "Volume error", "Lesion sensitivity", "False findings per case", "False alarms", "Holm",
                 "Multiply-adds", "| 0.85 | 0.76 | 3.2 mm |", "protocols against each other"):  # fmt: skip
        assert part in text, part
    assert f"{stored(out, 'paper', 'unet').mean_dice():.3f} (" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (out / "report" / picture).read_bytes().startswith(PNG)


@pytest.mark.usefixtures("results")
def test_the_page_holds_its_pictures_and_asks_nothing_of_other_places(out: Path) -> None:
    page = (out / "report/index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|url\(", re.sub(r"base64,[^\"]*", "", page))
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert len(pictures) == len(list((out / "report/pictures").glob("*.png"))) == 5
    assert all(b64decode(picture).startswith(PNG) for picture in pictures)
    assert page.count("<img") == len(re.findall(r'alt="[^"]+"', page))
    assert "prefers-color-scheme: dark" in page


def test_worst_median_and_best_are_of_the_cases_with_a_truth(results: Results) -> None:
    for entry in results.entries:
        worst, middle, best = picked(entry)
        assert worst.dice <= middle.dice <= best.dice
        values = entry.evaluation.values("dice")
        assert best.dice == values[best.number]
        names = {entry.evaluation.cases[pick.number].case for pick in (worst, middle, best)}
        assert EMPTY not in names


def test_a_network_does_not_differ_from_itself_and_a_pair_is_tested_once(results: Results) -> None:
    entries = results.of("square", "best")
    assert compared(entries[0], entries[0]).p == 1.0
    assert compared(entries[0], entries[0]).n == 8
    table = pairs_table(entries)
    assert table is not None
    assert [[bool(cell) for cell in row[1:]] for row in table.rows] == [[True, True], [False, True]]
    assert pairs_table(entries[:1]) is None


def test_a_result_of_other_settings_is_not_reported(comparison: Comparison, out: Path) -> None:
    changed = comparison.path.read_text().replace("steps = 4", "steps = 6")
    other = comparison.path.with_name("longer.toml")
    other.write_text(changed, encoding="utf-8")
    found = write_report(read_comparison(other), out, COMMAND)
    assert {entry.job.network for entry in found.entries} == {"handcrafted"}
    assert len(found.missing) == 4
    write_report(comparison, out, COMMAND)


def test_the_view_holds_what_is_shown_and_stays_in_the_image() -> None:
    shown = np.zeros((100, 80), np.bool_)
    shown[90:97, 3:9] = True
    rows_shown, columns_shown = view(shown)
    assert shown[rows_shown, columns_shown].sum() == shown.sum()
    assert 0 <= rows_shown.start < rows_shown.stop <= 100
    assert 0 <= columns_shown.start < columns_shown.stop <= 80
    assert view(np.zeros((10, 20), np.bool_)) == (slice(0, 10), slice(0, 20))


def test_markdown_and_html_say_the_same_and_escape_what_they_must(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    blocks: list[Block] = [
        Heading(1, "Title"),
        Text("p < 0.05"),
        Table("Caption", ("Network", "A|B"), (("x", "1\n2"),)),
        Picture(tmp_path / "a.png", 'what "it" shows'),
    ]
    markdown, page = to_markdown(blocks, tmp_path), to_html(blocks, "Title")
    assert "| Network | A\\|B |\n| --- | ---: |\n| x | 1 2 |" in markdown
    assert '![what "it" shows](a.png)' in markdown
    assert "p &lt; 0.05" in page
    assert "what &quot;it&quot; shows" in page
