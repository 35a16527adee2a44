"""Rules that hold for every test: a test is skipped only for a missing real part."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Generator

import pytest
import structlog
from hypothesis import settings

# A busy machine with two cores is slow now and then: time limits are pytest's business.
settings.register_profile("evac", deadline=None)
settings.load_profile("evac")


@pytest.fixture(autouse=True)
def logs_as_before() -> Generator[None, None, None]:
    """A command called in this process sets up logging; the next test must not feel it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """A test without a loop gets none: looptime would have one made that nobody closes."""
    if isinstance(item, pytest.Function) and not inspect.iscoroutinefunction(item.obj):
        asyncio.set_event_loop(None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test proves nothing: only tests of real parts may find them missing."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("real"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"only tests marked `real` may be skipped: {reason}"
    return report
