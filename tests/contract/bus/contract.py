"""What any bus must do. Subclassed once for the embedded bus and once for RabbitMQ."""

from __future__ import annotations

from tests.contract.bus.contract_failures import Failures
from tests.contract.bus.contract_messages import Messages
from tests.contract.bus.contract_users import Users


class BusContract(Messages, Users, Failures):
    """All of it."""
