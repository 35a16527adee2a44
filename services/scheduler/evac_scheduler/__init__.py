"""The scheduler: where each instance belongs, and the next step that gets it there."""

from typing import Final

__version__: Final = "0.1.0"
