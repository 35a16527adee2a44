from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.monitor.world import in_world, make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("monitor") / "template.sqlite")


@pytest.fixture
def simulate(template: Path) -> Callable[..., Any]:
    return partial(in_world, template=template)
