"""The web page in a real browser, used as people use it. Pictures of every page are left in .cache/web.

No test may ask for anything outside of the page's own address, or make the browser complain (`conftest.py`).
Not covered: other browsers than Chromium.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from dicomnode.records.tables import DeliveryRow
from tests.dicomnode.parts import events, wait_until
from tests.dicomnode.web import hospital as held
from tests.real_parts import require_file
from tests.web.conftest import PHONE, TIMEOUT_MS, Desk

pytestmark = pytest.mark.slow

AXE = Path(".cache/axe/axe.min.js")
HARMFUL = ("serious", "critical")
expect.set_options(timeout=TIMEOUT_MS)


def test_a_person_logs_in_and_out_and_a_wrong_password_opens_nothing(desk: Desk) -> None:
    page = desk.open()
    page.goto(f"{desk.address}/studies")
    expect(page).to_have_title("Log in · LESIONNODE")
    desk.picture(page, "login")
    desk.log_in(page, "viewer", "wrong password")
    expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
    desk.log_in(page, "viewer")
    expect(page.get_by_role("heading", level=1)).to_have_text("Now")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    assert [d["user"] for _, d in events(desk.node.database, "login_failed")] == ["viewer"]


def test_a_viewer_finds_a_study_and_sees_its_pictures_and_measurements(desk: Desk) -> None:
    page = desk.open("viewer")
    page.get_by_role("link", name="Studies", exact=True).click()
    page.get_by_label("Accession number, patient ID, any UID or job number").fill(held.PATIENT_ID)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(held.LESIONS)
    pictures = page.locator("ul.pictures img")
    expect(pictures).to_have_count(3)
    shown = (
        "[...document.querySelectorAll('ul.pictures img')].every(i => i.complete && i.naturalWidth === 384)"
    )
    page.wait_for_function(f"() => {shown}")
    rows = page.locator("table.measurements tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("mm\N{SUPERSCRIPT THREE}")
    bars = page.locator(".waterfall rect")
    assert bars.count() > 8
    assert all(box["width"] >= 1 for box in (bars.nth(i).bounding_box() for i in range(bars.count())) if box)
    desk.picture(page, "study-light")
    pictures.first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Lesion 1")
    page.wait_for_load_state()  # the keys are heard by a script that comes last
    before = page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: url != before)
    expect(page.locator("img.lesion")).to_be_visible()
    desk.picture(page, "lesion-light")


def test_times_are_local_and_say_their_utc(desk: Desk) -> None:
    context = desk.running.new_context(timezone_id="Asia/Tokyo")
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    desk.log_in(page, "viewer")
    page.goto(f"{desk.address}/studies")
    time = page.locator("time").first
    utc, local = time.get_attribute("title"), time.text_content()
    assert utc is not None
    assert local is not None
    hours = (int(local[11:13]) - int(utc[11:13])) % 24
    assert (hours, local[14:16]) == (9, utc[14:16])


def test_only_an_admin_replays_a_dead_letter(desk: Desk) -> None:
    viewer = desk.open("viewer")
    viewer.goto(f"{desk.address}/letters")
    expect(viewer.get_by_role("heading", name="Results that were given up")).to_be_visible()
    assert viewer.locator("main button").count() == 0
    assert viewer.get_by_role("link", name="Audit").count() == 0
    viewer.goto(f"{desk.address}/audit")
    expect(viewer.get_by_role("heading", level=1)).to_have_text("Not for you")

    admin = desk.open("admin")
    admin.goto(f"{desk.address}/letters")
    admin.get_by_role("button", name="Send all to PACS again").click()
    expect(admin.get_by_role("status")).to_have_text("Queued again.")
    with desk.node.database.snapshot() as session:
        assert "dead" not in set(session.scalars(select(DeliveryRow.state)))
    assert len(events(desk.node.database, "delivery_replayed")) == 2


def test_an_auditor_checks_the_trail(desk: Desk) -> None:
    page = desk.open("auditor")
    page.goto(f"{desk.address}/audit/verification")
    page.get_by_role("button", name="Check now").click()
    wait_until(lambda: events(desk.node.database, "audit_verified"), 60.0)
    expect(page.locator("main .state.good")).to_have_text("unbroken")
    page.goto(f"{desk.address}/audit")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert "audit_verified" in Path(download.value.path()).read_text("utf-8")


def test_the_first_page_keeps_itself_up_to_date(desk: Desk) -> None:
    page = desk.open("viewer")
    tile = page.locator(".tile", has_text="Dead letters").locator(".count")
    expect(tile).to_contain_text("2")
    with desk.node.database.transaction() as session:
        for delivery in session.scalars(select(DeliveryRow)):
            delivery.state = "delivered"
    expect(tile).to_contain_text("0")


def test_hostile_values_run_no_script(desk: Desk) -> None:
    page = desk.open("admin")
    for address in (f"{desk.address}/studies", desk.study(held.HOSTILE_ACCESSION)):
        page.goto(address)
        expect(page.get_by_text(held.HOSTILE_PATIENT).first).to_be_visible()
        assert page.title() != "owned"
        assert page.locator("main img[src=x], main script, main b").count() == 0
    expect(page.get_by_text(held.HOSTILE_DESCRIPTION)).to_be_visible()


def test_the_page_is_used_by_the_keyboard_alone(desk: Desk) -> None:
    page = desk.open("viewer")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Studies")
    outline = page.locator(":focus").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid", "one sees where one is"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Studies")


def pages(desk: Desk) -> dict[str, str]:
    """Every page but the login; the one of a candidate has a plot."""
    candidate, seg = held.add_candidate(desk.node), held.result_of(desk.node, "seg")[0]
    return {
        "now": desk.address,
        "studies": f"{desk.address}/studies",
        "study": desk.study(held.LESIONS),
        "hostile": desk.study(held.HOSTILE_ACCESSION),
        "letters": f"{desk.address}/letters",
        "lesion": f"{desk.address}/results/{seg}/lesions/1",
        "models": f"{desk.address}/models",
        "model": f"{desk.address}/models/{candidate}",
        "promote": f"{desk.address}/models/{candidate}/promote",
        "audit": f"{desk.address}/audit",
        "verification": f"{desk.address}/audit/verification",
        "configuration": f"{desk.address}/configuration",
        "nothing": f"{desk.address}/no/such/page",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_fault_of_accessibility(desk: Desk, scheme: str) -> None:
    axe = Path(require_file(AXE)).read_text("utf-8")
    stranger = desk.open(scheme=scheme)
    stranger.goto(f"{desk.address}/login")
    found = {"login": harm(stranger, axe)}
    page = desk.open("admin", scheme)
    for name, address in pages(desk).items():
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        found[name] = harm(page, axe)
        assert page.locator("svg.bland-altman circle").count() == (2 if name == "model" else 0)
        desk.picture(page, f"{name}-{scheme}")
    assert {name: faults for name, faults in found.items() if faults} == {}


def harm(page: Page, axe: str) -> list[str]:
    """What axe-core calls serious or critical, with the first element of each."""
    page.evaluate(axe)
    result: Any = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    assert result["passes"], "axe has looked at something"
    return [
        f"{fault['id']}: {fault['help']} {json.dumps([n['target'] for n in fault['nodes']][:3])}"
        for fault in result["violations"]
        if fault["impact"] in HARMFUL
    ]


def test_a_phone_shows_every_page_without_sideways_scrolling(desk: Desk) -> None:
    page = desk.open("admin", "dark", PHONE)
    for name, address in pages(desk).items():
        page.goto(address)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        desk.picture(page, f"{name}-phone")
        assert wide <= 0, name
        words = page.locator("table.stack > tbody > tr > .whole").all()
        assert words or name not in ("study", "audit", "letters")
        assert all(
            box["x"] + box["width"] <= PHONE["width"] for each in words if (box := each.bounding_box())
        )
