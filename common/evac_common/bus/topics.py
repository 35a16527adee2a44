"""Topic patterns as AMQP 0-9-1 has them: `*` is one word, `#` any number of words, also none."""

from __future__ import annotations

import re
from functools import lru_cache


def matches(pattern: str, routing_key: str) -> bool:
    """Whether a binding with this pattern receives a message with this routing key."""
    return _expression(pattern).fullmatch(f".{routing_key}") is not None


@lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    # Every word carries the dot before it, so that `#` can stand for none without a stray dot.
    words = {"*": r"\.[^.]*", "#": r"(?:\.[^.]*)*"}
    return re.compile(
        "".join(words.get(word, rf"\.{re.escape(word)}") for word in pattern.split("."))
    )
