"""A page of OHIF in a headless browser, asked what it has loaded."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.real_parts import require_program

OPEN_TIMEOUT_MS = 120_000
STEP_TIMEOUT_MS = 60_000
SETTLE_MS = 1_500
"""For animations and the last picture: there is no event to wait for."""
SIZE = {"width": 1600, "height": 1000}

ARGUMENTS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NO_TOUR = "localStorage.setItem('shownTours', '[\"basicViewerTour\"]')"

RESULT = "[data-cy=study-browser-thumbnail-no-image]"
LOAD = "[data-cy=yes-hydrate-btn]"

DISPLAY_SETS = """() => window.services.displaySetService.activeDisplaySets.map(
    d => ({modality: d.Modality, description: d.SeriesDescription, loaded: !!d.isLoaded,
           measurements: (d.measurements || []).map(m => ({
               loaded: m.loaded, uid: m.TrackingUniqueIdentifier,
               labels: (m.labels || []).map(l => [l.label, l.value])}))}))"""

SERIES = """() => new Set(
    window.services.displaySetService.activeDisplaySets.map(d => d.SeriesInstanceUID))"""

OUTLINES = """() => {
    const found = [];
    for (const s of window.services.segmentationService.getSegmentations()) {
        const labels = Object.fromEntries(Object.values(s.segments).map(x => [x.segmentIndex, x.label]));
        for (const id of s.representationData.Labelmap.imageIds) {
            const image = window.cornerstone.cache.getImage(id);
            const pixels = {};
            image.voxelManager.getScalarData().forEach((value, at) => {
                if (value) (pixels[value] ||= []).push(at);
            });
            for (const [number, ats] of Object.entries(pixels))
                found.push([labels[number], image.referencedImageId, ats]);
        }
    }
    return found;
}"""
"""Of each segmentation that is loaded: label, image and pixels, counted row by row."""

MEASUREMENTS = """() => window.services.measurementService.getMeasurements().map(
    m => ({label: m.label, tool: m.toolName, sop: m.SOPInstanceUID, frame: m.frameNumber,
           shown: m.displayText.primary}))"""


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a screen, drawing in software."""
    chromium = require_program("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield started
        started.close()


@dataclass
class Viewer:
    """One study, open."""

    page: Page
    pictures: Path
    """Screenshots are written to PICTURES-STEP.png."""
    problems: list[str] = field(default_factory=list)
    """Errors of the page, its console and its requests."""

    @classmethod
    def open(
        cls, running: Browser, address: str, study_instance_uid: str, series_count: int, pictures: Path
    ) -> Viewer:
        """Open the study and wait until all its series are listed: they come one by one."""
        context = running.new_context(viewport=SIZE)  # type: ignore[arg-type]
        context.add_init_script(NO_TOUR)
        viewer = cls(context.new_page(), pictures)
        page, problems = viewer.page, viewer.problems
        page.set_default_timeout(STEP_TIMEOUT_MS)
        page.on("pageerror", lambda error: problems.append(f"page: {error}"))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on(
            "response", lambda r: problems.append(f"HTTP {r.status} {r.url}") if r.status >= 400 else None
        )
        page.goto(f"{address}/viewer?StudyInstanceUIDs={study_instance_uid}")
        page.wait_for_selector(RESULT, timeout=OPEN_TIMEOUT_MS)
        page.wait_for_function(f"() => ({SERIES})().size === {series_count}")
        return viewer

    def close(self) -> None:
        self.page.context.close()

    def show(self, description: str, *, asks: bool = True) -> dict[str, Any]:
        """Double-click a result in the list, wait until it is loaded; returns what OHIF knows of it.

        `asks`: whether OHIF asks before it takes such a result over.
        """
        self.page.locator(RESULT, has_text=description).dblclick()
        self.page.wait_for_function(
            f"() => ({DISPLAY_SETS})().some(d => d.description === {json.dumps(description)} && d.loaded)"
        )
        if asks:
            prompt = self.page.locator(LOAD)
            prompt.click()
            prompt.wait_for(state="detached")
        self.page.wait_for_timeout(SETTLE_MS)
        (found,) = [d for d in self.page.evaluate(DISPLAY_SETS) if d["description"] == description]
        return dict(found)

    def descriptions(self, modality: str) -> list[str]:
        """Series descriptions of one modality, in the order of the list."""
        found = {d["description"] for d in self.page.evaluate(DISPLAY_SETS) if d["modality"] == modality}
        listed = self.page.locator(RESULT).all_inner_texts()
        return sorted(found, key=lambda name: next(i for i, text in enumerate(listed) if name in text))

    def outlines(self) -> dict[str, dict[tuple[str, int], set[int]]]:
        """Of each label, and each image and frame that it is on: its pixels, counted row by row."""
        found: dict[str, dict[tuple[str, int], set[int]]] = defaultdict(dict)
        for label, image_id, pixels in self.page.evaluate(OUTLINES):
            parts = image_id.split("/")
            image = parts[parts.index("instances") + 1], int(parts[parts.index("frames") + 1])
            found[label].setdefault(image, set()).update(pixels)
        return found

    def measurements(self) -> list[dict[str, Any]]:
        """What the radiologist finds in the panel of measurements, to correct."""
        return list(self.page.evaluate(MEASUREMENTS))

    def picture(self, step: str) -> Path:
        """A screenshot of what is shown now."""
        path = self.pictures.with_name(f"{self.pictures.name}-{step}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        return path
