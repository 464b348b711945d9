"""Each page of the web page on a node as after years of work, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from dicomnode.settings.database import DATABASE_URL
from tests.bench.harness import AtMost, Case, Contender, Run, Setting, Stage
from tests.bench.large_node import EVENTS_PER_STUDY, fill, study_uid
from tests.bench.stages.records import POSTGRESQL, SERVER, SQLITE
from tests.dicomnode.web.browsing import Browser, Page
from tests.postgres import QUICK, running_cluster

LIMIT_S = 0.3


def addresses(count: int) -> dict[str, str]:
    """What is asked for, by how a person would call it."""
    middle = count // 2
    return {
        "now": "/",
        "studies, newest": "/studies",
        "studies, a page from the middle": f"/studies?after=20260601T000000.000000_{study_uid(middle)}",
        "studies, parked": "/studies?state=parked",
        "studies, one day": "/studies?since=2026-10-30&until=2026-10-30",
        "find an accession number": f"/studies?find=ACC-{middle}",
        "find a patient ID": f"/studies?find=PAT-{middle // 3}",
        "find a result by UID": f"/studies?find={study_uid(middle)}.9.0",
        "find nothing": "/studies?find=unknown",
        "one study": f"/studies/{study_uid(middle)}",
        "dead letters": "/letters",
        "audit, newest": "/audit",
        "audit, a page from the middle": f"/audit?before={middle * EVENTS_PER_STUDY}",
        "audit, one kind": "/audit?event=job_started",
        "audit, failures": "/audit?outcome=failure",
        "audit, one peer and day": "/audit?peer=PACS&since=2026-10-30&until=2026-10-30",
        "audit, one model": "/audit?model=ct-lung-nodule",
        "audit, one person": "/audit?who=admin&event=logged_in",
        "configuration": "/configuration",
    }


def filled(folder: Path, count: int) -> Browser:
    """Somebody who is logged in at a node with so many studies."""
    folder.mkdir()
    page = Page(folder)
    fill(page.database, count)
    return page.logged_in()


def cases(setting: Setting) -> Iterator[Case]:
    """One case for each page; both databases are filled once."""
    count = setting.choose(50, 10_000, 100_000)
    browsers = {SQLITE: filled(setting.folder / "sqlite", count)}
    with ExitStack() as servers:
        if SERVER.present:
            cluster = servers.enter_context(running_cluster(QUICK))
            cluster.create_database("bench")
            environment = servers.enter_context(pytest.MonkeyPatch.context())
            environment.setenv(DATABASE_URL, cluster.url("bench"))
            browsers[POSTGRESQL] = filled(setting.folder / "postgresql", count)
        for name, address in addresses(count).items():
            contenders = (
                Contender(SQLITE, _opened(browsers[SQLITE], address)),
                Contender(POSTGRESQL, _opened(browsers.get(POSTGRESQL), address), (SERVER,)),
            )
            goals = (AtMost(SQLITE, LIMIT_S), AtMost(POSTGRESQL, LIMIT_S))
            yield Case(f"{name}, of {count} studies", contenders, SQLITE, goals)


def _opened(browser: Browser | None, address: str) -> Callable[[], AbstractContextManager[Run]]:
    @contextmanager
    def opened() -> Iterator[Run]:
        def ask() -> None:
            assert browser is not None
            answer = browser.get(address)
            assert answer.status_code in (200, 303), (address, answer.status_code)

        yield ask

    return opened


STAGE = Stage(
    "pages",
    "Pages of the web page",
    "A request in, the whole answer out, in this process, of each page of a node that has known so many "
    "studies, 20 events and three results of each. Files of images and results are not there.",
    cases,
    rounds=9,
)
