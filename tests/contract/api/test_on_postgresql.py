"""What the api promises on SQLite holds on PostgreSQL, under the role that it has there."""

from __future__ import annotations

import pytest

from tests.unit.api.test_access import *  # noqa: F403 - the same tests, on the other database
from tests.unit.api.test_declarations import *  # noqa: F403 - as above
from tests.unit.api.test_events import *  # noqa: F403 - as above
from tests.unit.api.test_explain import *  # noqa: F403 - as above
from tests.unit.api.test_instances import *  # noqa: F403 - as above
from tests.unit.api.test_nodes import *  # noqa: F403 - as above
from tests.unit.api.test_operations import *  # noqa: F403 - as above
from tests.unit.api.test_requests import *  # noqa: F403 - as above

pytestmark = pytest.mark.real
