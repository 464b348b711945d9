"""Figures over many series, against values worked out by hand or by numpy, and the picture of them."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from dicomnode.models.agreement import VolumePair, spread, volume_agreement
from dicomnode.show.bland_altman import bland_altman_svg

SVG = "{http://www.w3.org/2000/svg}"


def pairs(*volumes: tuple[float, float]) -> list[VolumePair]:
    return [VolumePair(f"1.2.{i}", live, candidate) for i, (live, candidate) in enumerate(volumes)]


def test_quartiles_are_those_of_numpy() -> None:
    values = list(np.random.default_rng(1).uniform(size=37))
    found = spread(values)
    assert found is not None
    assert (found.lower_quartile, found.median, found.upper_quartile) == pytest.approx(
        tuple(np.percentile(values, (25, 50, 75)))
    )
    assert (found.count, found.minimum, found.maximum) == (37, min(values), max(values))
    assert spread([]) is None


def test_limits_of_agreement_are_196_standard_deviations_from_the_bias() -> None:
    found = volume_agreement(pairs((10.0, 11.0), (20.0, 23.0), (30.0, 32.0)))
    assert found is not None
    assert found.bias_ml == pytest.approx(2.0)
    assert found.lower_ml == pytest.approx(2.0 - 1.96)
    assert found.upper_ml == pytest.approx(2.0 + 1.96)


def test_one_series_has_a_bias_and_no_limits() -> None:
    found = volume_agreement(pairs((10.0, 9.0)))
    assert found is not None
    assert (found.bias_ml, found.lower_ml, found.upper_ml) == (-1.0, None, None)
    assert volume_agreement([]) is None


def test_the_plot_has_a_dot_for_each_series_in_its_place() -> None:
    found = volume_agreement(pairs((10.0, 11.0), (20.0, 23.0), (30.0, 32.0)))
    assert found is not None
    root = ElementTree.fromstring(bland_altman_svg(found))
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter(f"{SVG}circle")]
    assert len(dots) == 3
    assert dots[0][0] < dots[1][0] < dots[2][0]  # by mean volume
    assert dots[1][1] < dots[2][1] < dots[0][1]  # a greater difference lies higher
    (bias,) = (line for line in root.iter(f"{SVG}line") if line.attrib["class"] == "bias")
    assert float(bias.attrib["y1"]) == pytest.approx(dots[2][1])  # its difference is the mean, 2 ml
    assert "bias +2.00 ml, upper limit +3.96 ml, lower limit +0.04 ml" in root.attrib["aria-label"]


@pytest.mark.parametrize("volumes", [[(5.0, 5.0), (7.0, 7.0)], [(10.0, 11.0), (20.0, 23.0)]])
def test_the_words_of_equal_levels_do_not_lie_on_each_other(volumes: list[tuple[float, float]]) -> None:
    found = volume_agreement(pairs(*volumes))
    assert found is not None
    root = ElementTree.fromstring(bland_altman_svg(found))
    levels = [text for text in root.iter(f"{SVG}text") if "i" in str(text.text)][-3:]
    places = {str(text.text).split()[0]: float(text.attrib["y"]) for text in levels}
    assert places["upper"] + 16 <= places["bias"] <= places["lower"] - 16


@pytest.mark.parametrize("volumes", [[(0.0, 0.0)], [(5.0, 5.0), (5.0, 5.0)], [(0.001, 90000.0), (0.0, 0.0)]])
def test_the_plot_can_be_drawn_of_any_volumes(volumes: list[tuple[float, float]]) -> None:
    found = volume_agreement(pairs(*volumes))
    assert found is not None
    root = ElementTree.fromstring(bland_altman_svg(found))
    for dot in root.iter(f"{SVG}circle"):
        assert 0 <= float(dot.attrib["cx"]) <= 640
        assert 0 <= float(dot.attrib["cy"]) <= 360
