"""No page of a node with much behind it reads a whole table. How long pages take, the benchmark measures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sqlalchemy.event import listen

from tests.bench.large_node import fill
from tests.bench.stages.pages import addresses
from tests.dicomnode.web.browsing import Page

STUDIES = 300
WHOLE_TABLE = re.compile(r"SCAN (studies|instances|decisions|jobs|results|deliveries)$")
"""As SQLite tells of it. The audit trail may be read from its end, and is, up to a limit."""


def test_no_page_reads_a_whole_table(tmp_path: Path) -> None:
    page = Page(tmp_path)
    fill(page.database, STUDIES)
    browser = page.logged_in()
    asked: dict[str, list[str]] = {}

    def explain(connection: Any, _: object, statement: str, values: Any, *__: object) -> None:
        if statement.startswith("SELECT"):
            driver = connection.connection.driver_connection.cursor()
            asked[statement] = [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", values)]

    listen(page.database.engine, "before_cursor_execute", explain)
    for address in addresses(STUDIES).values():
        assert browser.get(address).status_code in (200, 303), address
    assert len(asked) > len(addresses(STUDIES))
    assert [statement for statement, plan in asked.items() if any(map(WHOLE_TABLE.match, plan))] == []
    steps = [step for plan in asked.values() for step in plan]
    assert "SEARCH audit_events USING INDEX audit_events_of_few (actor=?)" in steps, "who"
