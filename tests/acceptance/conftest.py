"""One cluster on real servers for all acceptance tests, which run last and one after the other."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from evac_lab.real.process_cluster import ProcessCluster
from evac_lab.real.servers import missing_programs
from tests.acceptance.cluster import GUESTS, SCENARIO, Acceptance

HERE = Path(__file__).parent
LOG_TAIL = 4000


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Last, so that the cluster is not a load on the machine while other tests run."""
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def acceptance() -> AsyncIterator[Acceptance]:
    """Five nodes, up, on real RabbitMQ, PostgreSQL, services and BMCs."""
    if lacking := missing_programs():
        pytest.skip(f"real servers are not installed: apt-get install {' '.join(lacking)}")
    folder = Path(tempfile.mkdtemp(prefix="evac-acceptance-"))
    try:
        async with ProcessCluster.running(SCENARIO, guests=GUESTS, directory=folder) as cluster:
            made = Acceptance(cluster)
            await made.bring_up()
            yield made
    finally:
        shutil.rmtree(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows what the services said."""
    report = yield
    made = getattr(item, "funcargs", {}).get("acceptance")
    if report.failed and made is not None:
        for name, log in made.logs().items():
            text = log.read_text(errors="replace")[-LOG_TAIL:]
            report.sections.append((f"end of the log of {name}", text))
    return report
