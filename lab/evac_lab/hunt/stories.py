"""How nodes go away and come back, in several lines each, with faults at moments that matter.

The operator of these stories is attentive and never lies: a node is confirmed down only between a
`power off` and the `power on` that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from evac_lab.hunt.spells import SPELLS, Cast, Family, On, Spell, strike
from evac_lab.hunt.weave import Span, Weave

FENCED_S: Final = 45.0  # a node that was silent for so long has very likely been cut off
RACK_MAX: Final = 6

# Moments of a recovery, in seconds after the node fell silent: still trusted, suspect, being cut
# off, planned and started elsewhere, back again.
MOMENTS: Final = ((-5.0, 8.0), (8.0, 20.0), (20.0, 27.0), (24.0, 45.0), (24.0, 45.0), (45.0, 150.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a story may use."""

    weave: Weave
    cast: Cast
    without_bmc: frozenset[str]
    down_max: int  # nodes away at once, but for a rack
    beside: Sequence[Spell]  # faults that may come beside a death
    beside_mean: float  # how many


Story = Callable[[Stage, float], bool]  # False: it did not fit in, nothing was said


def _free_node(stage: Stage, at_s: float, lasts_s: float) -> tuple[str, Span] | None:
    """A node that can go away now, booked."""
    weave = stage.weave
    span = weave.span(at_s, lasts_s)
    if span is None or weave.down(span) >= stage.down_max:
        return None
    node = weave.draw.one(stage.cast.nodes)
    if not all(weave.free(f"{thing} of {node}", span) for thing in ("power", "way", "daemon")):
        return None
    for thing in ("power", "way", "daemon"):
        weave.book(f"{thing} of {node}", span)
    weave.goes_down(span)
    return node, span


def _goes_away(
    stage: Stage,
    begin_s: float,
    lasts_s: float,
    tell: Callable[[str, Span], None],
    *,
    beside_s: float | None,
) -> bool:
    """Some node goes away as `tell` says it, and whoever finds it switched off switches it on.

    `beside_s`: the moment that faults beside it are counted from; None: none come.
    """
    found = _free_node(stage, begin_s, lasts_s)
    if found is None:
        return False
    node, span = found
    tell(node, span)
    stage.weave.say(span.end_s, f"power {node} on")
    if beside_s is not None:
        _beside(stage, node, beside_s)
    return True


def _beside(stage: Stage, node: str, at_s: float) -> None:
    """Faults at the moments of a recovery: of the dead node's BMC, of its heirs, of controllers."""
    draw = stage.weave.draw
    count = 0
    while count < 4 and draw.chance(stage.beside_mean / (1.0 + stage.beside_mean)):
        count += 1
        spell = draw.weighted(stage.beside, [spell.weight for spell in stage.beside])
        moment_s = at_s + draw.between(*draw.one(MOMENTS))
        strike(
            stage.weave,
            stage.cast,
            spell,
            moment_s,
            node if spell.family is Family.BMC else None,
        )


def power_cut(stage: Stage, at_s: float) -> bool:
    return _power_out(stage, at_s, stage.weave.draw.scale(30, 240))


def power_blip(stage: Stage, at_s: float) -> bool:
    """Back before it is missed, while it is being cut off, or just after."""
    return _power_out(stage, at_s, stage.weave.draw.between(0.5, 32))


def _power_out(stage: Stage, at_s: float, lasts_s: float) -> bool:
    def tell(node: str, span: Span) -> None:
        stage.weave.say(span.begin_s, f"power {node} off")

    return _goes_away(stage, at_s, lasts_s, tell, beside_s=at_s)


def cut_off(stage: Stage, at_s: float) -> bool:
    """Its network is gone; its guests run on until its BMC cuts the power."""
    weave, draw = stage.weave, stage.weave.draw

    def tell(node: str, span: Span) -> None:
        way = draw.one(("", "", "", " in", " out", " from broker", " from broker in"))
        weave.say(span.begin_s, f"network {node} off{way}")
        weave.say(span.end_s - 30, f"network {node} on{way}")

    return _goes_away(stage, at_s, draw.scale(19, 240) + 30, tell, beside_s=at_s)


def flapping(stage: Stage, at_s: float) -> bool:
    """Its network comes and goes."""
    weave, draw = stage.weave, stage.weave.draw
    period_s, times = draw.scale(2, 60), draw.whole(2, 5)

    def tell(node: str, span: Span) -> None:
        for index in range(times):
            begin_s = span.begin_s + 2 * period_s * index
            weave.say(begin_s, f"network {node} off")
            weave.say(begin_s + period_s, f"network {node} on")

    return _goes_away(stage, at_s, 2 * period_s * times + 30, tell, beside_s=None)


def silent_daemon(stage: Stage, at_s: float) -> bool:
    """Its daemon is stopped or hangs for too long, while its guests are well."""
    weave, draw = stage.weave, stage.weave.draw

    def tell(node: str, span: Span) -> None:
        begins, ends = draw.one((("hang", "resume"), ("stop", "start")))
        weave.say(span.begin_s, f"{begins} compute@{node}")
        weave.say(span.end_s - 30, f"{ends} compute@{node}")

    return _goes_away(stage, at_s, draw.scale(20, 150) + 30, tell, beside_s=at_s)


def orderly(stage: Stage, at_s: float) -> bool:
    weave, draw = stage.weave, stage.weave.draw

    def tell(node: str, span: Span) -> None:
        weave.say(span.begin_s, f"{draw.one(('shutdown', 'reboot'))} {node}")

    return _goes_away(stage, at_s, draw.scale(70, 240), tell, beside_s=at_s)


def operator_fences(stage: Stage, at_s: float) -> bool:
    def tell(node: str, span: Span) -> None:
        stage.weave.say(span.begin_s, f"evac? node fence {node} --reason smoke --no-wait")

    lasts_s = stage.weave.draw.scale(45, 150)
    return _goes_away(stage, at_s, lasts_s, tell, beside_s=at_s - FENCED_S / 2)


def vouched_for(stage: Stage, at_s: float) -> bool:
    """Off, and its BMC cannot say so: the operator goes there, looks, and confirms it."""
    weave, draw = stage.weave, stage.weave.draw

    def tell(node: str, span: Span) -> None:
        if node not in stage.without_bmc and weave.take(f"bmc of {node}", span):
            weave.say(span.begin_s, f"bmc {node} {draw.one(('off', 'wrong'))}")
            weave.say(span.end_s, f"bmc {node} on")
        weave.say(span.begin_s, f"power {node} off")
        for at in (draw.between(30, 80), draw.between(90, 140)):
            weave.say(
                span.begin_s + at,
                f"evac? node confirm-down {node} --confirm {node} --reason unplugged --no-wait",
            )

    return _goes_away(stage, at_s, draw.between(150, 400), tell, beside_s=at_s)


def old_disk(stage: Stage, at_s: float) -> bool:
    """Its disk is put back from an image: its daemon has forgotten what it did since."""
    weave, draw = stage.weave, stage.weave.draw
    begin_s = at_s + draw.scale(5, 400)

    def tell(node: str, span: Span) -> None:
        weave.say(at_s, f"disk {node} save")
        weave.say(span.begin_s, f"power {node} off")
        weave.say(span.begin_s + 5, f"disk {node} restore")

    return _goes_away(stage, begin_s, draw.scale(15, 240), tell, beside_s=begin_s)


def clone(stage: Stage, at_s: float) -> bool:
    """It boots with another node's identity and credentials, and later as itself again."""
    weave, draw = stage.weave, stage.weave.draw

    def tell(node: str, span: Span) -> None:
        other = draw.one([name for name in stage.cast.nodes if name != node])
        second_s = span.end_s - draw.between(30, 60)
        weave.say(span.begin_s, f"identity {node} of {other}")
        weave.say(span.begin_s + 1, f"power {node} off")
        weave.say(span.begin_s + draw.between(5, 60), f"power {node} on")
        weave.say(second_s, f"identity {node} own")
        weave.say(second_s + 1, f"power {node} off")

    return _goes_away(stage, at_s, draw.between(150, 300), tell, beside_s=None)


def rack(stage: Stage, at_s: float) -> bool:
    """More nodes at once than the blast radius allows; the operator looks, then releases."""
    weave, draw = stage.weave, stage.weave.draw
    span = weave.span(at_s, draw.between(150, 400))
    if span is None or weave.down(span) > 0:
        return False
    power = draw.chance(0.5)
    for node in draw.some(stage.cast.nodes, draw.whole(2, RACK_MAX)):
        things = [f"{thing} of {node}" for thing in ("power", "way", "daemon")]
        if not all(weave.free(thing, span) for thing in things):
            continue
        for thing in things:
            weave.book(thing, span)
        weave.goes_down(span)
        at = span.begin_s + draw.between(0, 5)
        weave.say(at, f"power {node} off" if power else f"network {node} off")
        if not power:
            weave.say(span.end_s - draw.between(20, 30), f"network {node} on")
        weave.say(span.end_s - draw.between(0, 10), f"power {node} on")
    release(stage, span.begin_s + draw.between(50, 110))
    release(stage, span.end_s + 40)
    return True


def release(stage: Stage, at_s: float) -> None:
    """The operator has looked: what is silent is really gone, go on."""
    if at_s < stage.weave.until_s:
        stage.weave.say(at_s, "evac? cluster storm release --reason looked --no-wait")


def backup_restored(stage: Stage, at_s: float) -> bool:
    """The database goes back in time."""
    weave, draw = stage.weave, stage.weave.draw
    span = weave.span(at_s, draw.scale(5, 400))
    if span is None or not weave.take("backup", Span(begin_s=at_s, end_s=span.end_s + 300)):
        return False
    if not weave.take("database", Span(begin_s=span.end_s - 2, end_s=span.end_s + 2)):
        return False
    weave.say(span.begin_s, "database save")
    weave.say(span.end_s, "database restore")
    return True


DEATHS: Final[tuple[tuple[Story, float], ...]] = (
    (power_cut, 6.0),
    (power_blip, 2.0),
    (cut_off, 4.0),
    (flapping, 0.7),
    (silent_daemon, 1.0),
    (orderly, 1.0),
    (operator_fences, 1.0),
    (vouched_for, 0.7),
    (old_disk, 0.5),
    (clone, 0.8),
    (rack, 0.5),
    (backup_restored, 0.7),
)

BESIDE: Final[tuple[Spell, ...]] = tuple(
    spell
    for spell in SPELLS
    if spell.family in {Family.CONTROL, Family.BUS, Family.BMC, Family.NODE, Family.CLOCK}
    or (spell.family is Family.GUEST and "start" in spell.begins)
)
QUIET: Final[tuple[Spell, ...]] = tuple(
    spell for spell in BESIDE if spell.on not in {On.MONITOR, On.CLUSTER}
)  # none of them holds fencing off
