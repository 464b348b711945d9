"""A Bland-Altman plot of volumes as SVG: drawn here, shown without a script."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from dicomnode.models.agreement import VolumeAgreement

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 132, 16, 48
TICKS = 5
LINE = 16
"""Height of a line of words."""


@dataclass(frozen=True)
class _Scale:
    """Values from `low` to `high` drawn from pixel `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> Iterator[float]:
        """About `TICKS` round values."""
        raw = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * nice for nice in (1, 2, 5, 10) if raw <= power * nice)
        first = math.ceil(self.low / step)
        yield from (number * step for number in range(first, math.floor(self.high / step) + 1))


def bland_altman_svg(found: VolumeAgreement) -> str:
    """The mean of both volumes against their difference, with bias and 95 % limits of agreement."""
    lines = {"bias": found.bias_ml, "upper limit": found.upper_ml, "lower limit": found.lower_ml}
    known = {name: value for name, value in lines.items() if value is not None}
    across = _scale([pair.mean_ml for pair in found.pairs], LEFT, WIDTH - RIGHT, floor=0.0)
    differences = [pair.difference_ml for pair in found.pairs]
    upwards = _scale([*differences, *known.values(), 0.0], HEIGHT - BOTTOM, TOP)
    levels = ", ".join(f"{name} {value:+.2f} ml" for name, value in known.items())
    root = ElementTree.Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img",
         "class": "bland-altman", "aria-label": f"Bland-Altman plot of {len(found.pairs)} volumes: {levels}"},
    )  # fmt: skip
    _draw_axes(root, across, upwards)
    places = _apart([upwards.at(value) for value in known.values()])
    for (name, value), place in zip(known.items(), places, strict=True):
        kind, level = "bias" if name == "bias" else "limit", upwards.at(value)
        _line(root, kind, LEFT, level, WIDTH - RIGHT, level)
        _text(root, f"{name} {value:+.2f}", WIDTH - RIGHT + 6, place + 4, "start")
    for pair in found.pairs:
        dot = ElementTree.SubElement(
            root, "circle", cx=str(across.at(pair.mean_ml)), cy=str(upwards.at(pair.difference_ml)), r="4"
        )
        ElementTree.SubElement(
            dot, "title"
        ).text = f"mean {pair.mean_ml:.2f} ml, {pair.difference_ml:+.2f} ml"
    return ElementTree.tostring(root, encoding="unicode")


def _scale(values: list[float], start: float, end: float, floor: float | None = None) -> _Scale:
    """With a margin of a twelfth on both sides; equal values get a range of their own."""
    low, high = min(values), max(values)
    margin = (high - low) / 12.0 or max(abs(high), 1.0) / 10.0
    return _Scale(low - margin if floor is None else max(floor, low - margin), high + margin, start, end)


def _draw_axes(root: ElementTree.Element, across: _Scale, upwards: _Scale) -> None:
    bottom = HEIGHT - BOTTOM
    _line(root, "axis", LEFT, bottom, WIDTH - RIGHT, bottom)
    _line(root, "axis", LEFT, TOP, LEFT, bottom)
    for value in across.ticks():
        _text(root, f"{value:g}", across.at(value), bottom + 18, "middle")
    for value in upwards.ticks():
        _text(root, f"{value:g}", LEFT - 8, upwards.at(value) + 4, "end")
    if upwards.low < 0.0 < upwards.high:
        _line(root, "zero", LEFT, upwards.at(0.0), WIDTH - RIGHT, upwards.at(0.0))
    _text(root, "mean of both volumes (ml)", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle")
    label = _text(root, "candidate minus live (ml)", 0, 0, "middle")
    label.set("transform", f"translate(16 {(TOP + bottom) / 2}) rotate(-90)")


def _apart(levels: list[float]) -> list[float]:
    """Where the words of each level stand: beside it, or as near as leaves each a line of its own.

    The first is the bias and keeps its place; the upper limit gives way upwards, the lower one downwards.
    """
    bias, *limits = levels
    return [
        bias,
        *(min(upper, bias - LINE) for upper in limits[:1]),
        *(max(lower, bias + LINE) for lower in limits[1:]),
    ]


def _line(root: ElementTree.Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    ends = {"x1": str(x1), "y1": str(y1), "x2": str(x2), "y2": str(y2)}
    ElementTree.SubElement(root, "line", {"class": kind, **ends})


def _text(root: ElementTree.Element, text: str, x: float, y: float, anchor: str) -> ElementTree.Element:
    element = ElementTree.SubElement(root, "text", {"x": str(x), "y": str(y), "text-anchor": anchor})
    element.text = text
    return element
