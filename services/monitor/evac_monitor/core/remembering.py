"""Whether the rows that the tick read a moment ago give a cause to read them again.

Remembered rows decide nothing. They only say that there is nothing to decide, so that a cluster in
which all is well costs the database nothing several times a second.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is remembered, and what it looks like together with what was heard since."""

    age_s: float | None  # of the rows; None: none are remembered
    doomed: bool = False  # a node is in fencing or blocked
    all_silent: bool = False  # nearly all nodes fell silent at once
    suspect: bool = False  # a node is suspect
    due: bool = False  # silence or troubles of a node would change its state


def why_read(view: View, believed_s: float) -> str:
    """The first cause to read the rows now; empty: what is remembered may stand.

    Whatever only rows can tell, that another monitor or an operator acted, is noticed up to
    `believed_s` seconds later.
    """
    causes = (
        (view.age_s is None, "nothing is remembered"),
        (view.age_s is not None and view.age_s >= believed_s, "the rows are too old"),
        (view.doomed, "a node is being cut off, or cannot be"),
        (view.all_silent, "all nodes fell silent at once"),
        (view.suspect, "a node is suspect"),
        (view.due, "a node's state is about to change"),
    )
    return next((why for holds, why in causes if holds), "")
