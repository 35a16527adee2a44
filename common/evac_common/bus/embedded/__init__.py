"""The bus in memory, for demo, simulator and tests: faults on demand, loop time only."""

from evac_common.bus.embedded.broker import EmbeddedBroker
from evac_common.bus.embedded.client import EmbeddedBus
from evac_common.bus.embedded.link import Clear, Fate, Faults, Link
from evac_common.bus.embedded.state import EmbeddedState

__all__ = ["Clear", "EmbeddedBroker", "EmbeddedBus", "EmbeddedState", "Fate", "Faults", "Link"]
