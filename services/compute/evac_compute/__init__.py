"""Compute: the one per node that starts and stops instances, and refuses what it cannot trust."""

from typing import Final

__version__: Final = "0.1.0"
