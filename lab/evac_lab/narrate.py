"""Public events as lines for people: the log that both kinds of lab print.

Only state changes and decisions become lines, so unrelated changes of the program do not change
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened: when (seconds of the run), who says so, what, and why."""

    at_s: float
    who: str
    what: str
    why: str = ""
    rank: int = 0  # among lines of the same moment, which comes first: causes before effects

    def __str__(self) -> str:
        return f"{self.at_s:7.1f}  {self.who:<9}  {self.what:<44}  {self.why}".rstrip()


def _node(what: str) -> Callable[[Body], tuple[str, str]]:
    return lambda body: (f"node {body['node']}: {what}", str(body.get("why", "")))


def _instance(what: str) -> Callable[[Body], tuple[str, str]]:
    return lambda body: (
        f"instance {body['instance']}: {what.format(**body)}",
        str(body.get("why", "")),
    )


# In the order of cause and effect, which is their order within one moment.
_SENTENCES: Final[Mapping[str, tuple[str, Callable[[Body], tuple[str, str]]]]] = {
    "node.rebooted": ("monitor", _node("came back with a higher incarnation")),
    "node.registered": (
        "monitor",
        lambda body: (
            f"node {body['node']}: joining, incarnation {body['incarnation']}",
            str(body.get("why", "")),
        ),
    ),
    "node.up": ("monitor", _node("up")),
    "node.suspect": ("monitor", _node("suspect")),
    "node.degraded": (
        "monitor",
        lambda body: (
            f"node {body['node']}: degraded ({', '.join(body['troubles'])})",
            str(body.get("why", "")),
        ),
    ),
    "node.recovered": ("monitor", _node("no longer degraded")),
    "node.isolated": ("monitor", _node("silent, and shown alive")),
    "node.fencing": ("monitor", _node("fencing")),
    "node.fencing_held": (
        "monitor",
        lambda body: (
            f"node {body['node']}: not fenced, gate {body['gate']} is shut",
            str(body["why"]),
        ),
    ),
    "node.blocked": ("monitor", _node("blocked: a person must decide")),
    "node.refused": ("monitor", _node("registration refused")),
    "node.fenced_alive": ("monitor", _node("was proven dead and is alive")),
    "node.down": (
        "monitor",
        lambda body: (
            f"node {body['node']}: dead, proof {body['proof']}",
            str(body["evidence"]),
        ),
    ),
    "cluster.storm": (
        "monitor",
        lambda body: ("storm: nothing is fenced automatically", str(body["why"])),
    ),
    "cluster.storm_released": ("monitor", lambda body: ("storm released", str(body["why"]))),
    "cluster.disarmed": (
        "monitor",
        lambda body: ("disarmed: nothing is fenced automatically", str(body["why"])),
    ),
    "cluster.still_disarmed": ("monitor", lambda body: ("still disarmed", str(body["why"]))),
    "cluster.armed": ("monitor", lambda body: ("armed", str(body["why"]))),
    "cluster.recovering": (
        "monitor",
        lambda body: (f"recovering, term {body['term']}: nothing is started", str(body["why"])),
    ),
    "instance.adopted": ("scheduler", _instance("adopted on {node} (epoch {epoch})")),
    "cluster.recovered": (
        "monitor",
        lambda body: (
            f"recovered: {body['adopted']} adopted, {body['left_alone']} left alone",
            str(body["why"]),
        ),
    ),
    "instance.start_failed": (
        "scheduler",
        lambda body: (
            f"instance {body['instance']}: start failed on {body['node']} ({body['kind']})"
            + (", alarm" if body.get("alarm") else ""),
            str(body.get("why", "")),
        ),
    ),
    "instance.exited": ("scheduler", _instance("ended by itself on {node} ({reason})")),
    "instance.stopped": ("scheduler", _instance("stopped on {node}")),
    "instance.started": (
        "scheduler",
        lambda body: (
            f"instance {body['instance']}: runs on {body['node']} again (run {body['run']})",
            str(body.get("why", "")),
        ),
    ),
    "instance.evacuated": (
        "scheduler",
        lambda body: (
            f"instance {body['instance']}: runs on {body['to_node']}, was on {body['from_node']}",
            f"{body['took_s']:.1f} s after the proof",
        ),
    ),
    "evacuation.opened": (
        "scheduler",
        lambda body: (f"evacuation of {body['node']}: {body['instances']} instances", ""),
    ),
    "evacuation.planned": (
        "scheduler",
        lambda body: (
            f"evacuation of {body['node']}: {body['reserved']} placed, {body['waiting']} waiting",
            "",
        ),
    ),
    "instance.placed": ("scheduler", _instance("→ {node} (epoch {epoch})")),
    "evacuation.done": (
        "scheduler",
        lambda body: (f"evacuation of {body['node']}: done in {body['took_s']:.1f} s", ""),
    ),
    "instance.waiting": ("scheduler", _instance("still waits, was on {node}")),
    "instance.unreadable": ("scheduler", _instance("its declaration cannot be read")),
    "instance.double_run_suspected": ("scheduler", _instance("DOUBLE RUN SUSPECTED on {node}")),
    "instance.quarantined": ("scheduler", _instance("quarantined on {node}")),
}

_RANKS: Final = {name: rank for rank, name in enumerate(_SENTENCES, start=1)}


def _is_told_otherwise(name: str, body: Body) -> bool:
    """The first start under an epoch is told by who asked for it: an evacuation, or a user."""
    return name == "instance.started" and body["run"] == 1


def narrate(name: str, body: Body, at_s: float) -> Line | None:
    """The line of an event, or None for events that are not told."""
    told = _SENTENCES.get(name)
    if told is None or _is_told_otherwise(name, body):
        return None
    who, sentence = told
    what, why = sentence(body)
    return Line(at_s=at_s, who=who, what=what, why=why, rank=_RANKS[name])
