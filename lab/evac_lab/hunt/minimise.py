"""From a failing scenario to a small one that fails in the same way.

Delta debugging: leave out ever smaller parts, and keep what still breaks the same invariant. A cut
that would leave a fault without its end, or make the operator a liar, is not even tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from evac_lab.golden import LOG, README, SCENARIO, in_order
from evac_lab.hunt.honest import lies, pairs, still_ill
from evac_lab.hunt.live import CALM_S, Failure, Lived, live
from evac_lab.hunt.written import Plan, as_text, scenario_of
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.verbs import NotUnderstood, parse_step

Item = TypeVar("Item")
NODES_LEAST: Final = 2
END_MARGIN_S: Final = 5.0


@dataclass(slots=True, kw_only=True)
class Minimiser:
    """Cuts one plan down. `until_s` (monotonic) bounds it; what was found by then stands."""

    seed: int
    kind: str  # the failure that every cut must show again
    until_s: float
    on_cut: Callable[[str], None] = lambda _text: None
    run: Callable[[Scenario, int], Lived] = lambda scenario, seed: live(scenario, seed=seed)
    tries: int = field(default=0, init=False)
    lived: Lived | None = field(default=None, init=False)  # of the last plan that failed

    def small(self, plan: Plan) -> Plan:
        """The smallest plan that was found to fail in the same way."""
        plan = self._shorter(plan)
        plan = self._lines(plan)
        plan = self._instances(plan)
        plan = self._nodes(plan)
        plan = self._lines(plan)
        return self._shorter(plan)

    def fails(self, plan: Plan) -> bool:
        """Whether it breaks the same promise. Always False when the time is over."""
        if time.monotonic() > self.until_s:
            return False
        try:
            scenario = scenario_of(plan)
        except (ValidationError, NotUnderstood):
            return False
        if still_ill(scenario.steps) or any(lies(scenario.steps)):
            return False
        self.tries += 1
        lived = self.run(scenario, self.seed)
        failed = any(failure.kind == self.kind for failure in lived.failures)
        if failed:
            self.lived = lived
            self.on_cut(
                f"{len(plan['timeline'])} lines, {len(plan['nodes'])} nodes, "
                f"{len(plan['instances'])} instances, {scenario.end_s:.0f} s"
            )
        return failed

    # -- what is left out ------------------------------------------------------------------------

    def _shorter(self, plan: Plan) -> Plan:
        """End soon after the failure; what a promise about the end needs, it keeps."""
        failure = self._first(plan)
        if failure is None or failure.at_s <= 0:
            return plan
        for margin_s in (END_MARGIN_S, 60.0, CALM_S + 60.0):
            end_s = failure.at_s + margin_s
            kept = [line for line in plan["timeline"] if parse_step(line).at_s < end_s]
            if len(kept) == len(plan["timeline"]):
                return plan
            shorter = {**plan, "timeline": [*_mended(kept, end_s), f"at {end_s:g} end"]}
            if self.fails(shorter):
                return shorter
        return plan

    def _first(self, plan: Plan) -> Failure | None:
        if self.lived is None and not self.fails(plan):
            return None
        assert self.lived is not None, "a plan that fails was lived through"
        return next(each for each in self.lived.failures if each.kind == self.kind)

    def _lines(self, plan: Plan) -> Plan:
        """Each fault with its end, then every line by itself."""
        timeline = list(plan["timeline"])
        groups = pairs([parse_step(line) for line in timeline])

        def without(groups: Sequence[tuple[int, ...]]) -> Plan:
            kept = sorted(index for group in groups for index in group)
            return {**plan, "timeline": [*(timeline[index] for index in kept), timeline[-1]]}

        return without(fewest(groups, lambda some: self.fails(without(some))))

    def _instances(self, plan: Plan) -> Plan:
        names = list(plan["instances"])

        def only(names: Sequence[str]) -> Plan:
            kept = {name: plan["instances"][name] for name in names}
            gone = set(plan["instances"]) - set(names)
            return {**plan, "instances": kept, "timeline": _not_about(plan["timeline"], gone)}

        return only(fewest(names, lambda some: self.fails(only(some))))

    def _nodes(self, plan: Plan) -> Plan:
        names = list(plan["nodes"])

        def only(names: Sequence[str]) -> Plan:
            gone = set(plan["nodes"]) - set(names)
            pools = {
                name: {**pool, "nodes": [node for node in pool["nodes"] if node in names]}
                for name, pool in plan["pools"].items()
            }
            return {
                **plan,
                "nodes": {name: plan["nodes"][name] for name in names},
                "pools": pools,
                "timeline": _not_about(plan["timeline"], gone),
            }

        def fails(some: Sequence[str]) -> bool:
            return len(some) >= NODES_LEAST and self.fails(only(some))

        return only(fewest(names, fails))


def _mended(lines: Sequence[str], end_s: float) -> list[str]:
    """Without the beginnings whose ends were cut off."""
    steps = [*(parse_step(line) for line in lines), parse_step(f"at {end_s:g} end")]
    open_lines = set(still_ill(steps).values())
    return [line for index, line in enumerate(lines) if index not in open_lines]


def _not_about(lines: Sequence[str], names: set[str]) -> list[str]:
    return [line for line in lines if names.isdisjoint(line.replace("@", " ").split())]


def fewest(items: Sequence[Item], fails: Callable[[Sequence[Item]], bool]) -> Sequence[Item]:
    """Delta debugging (ddmin): leave out halves, quarters ... while what is left fails."""
    kept = list(items)
    parts = 2
    while len(kept) >= 2:
        size = max(1, len(kept) // parts)
        for begin in range(0, len(kept), size):
            rest = kept[:begin] + kept[begin + size :]
            if fails(rest):
                kept, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                return kept
            parts = min(len(kept), parts * 2)
    return [] if kept and fails([]) else kept


def write(plan: Plan, directory: Path, *, seed: int, failure: Failure, lived: Lived | None) -> None:
    """As a directory of tests/scenarios: what happens, the scenario, and the log it gives now."""
    directory.mkdir(parents=True, exist_ok=True)
    rest = {key: value for key, value in plan.items() if key not in {"name", "seed"}}
    plan = {"name": directory.name, "seed": seed, **rest}
    (directory / SCENARIO).write_text(as_text(plan), encoding="utf-8")
    (directory / README).write_text(
        f"Cut down from seed {seed} of a hunt. It breaks {failure.kind}: {failure.sentence}.\n"
        f"Replay it with `evac-lab simulate {directory.name}`; the file names its seed.\n",
        encoding="utf-8",
    )
    if lived is not None:
        log = "".join(f"{line}\n" for line in in_order(lived.lines))
        (directory / LOG).write_text(log, encoding="utf-8")


def cut_down(
    plan: Plan, *, seed: int, kind: str, limit_s: float, on_cut: Callable[[str], None]
) -> tuple[Plan, Lived | None, int]:
    """The smallest plan found within `limit_s`, its run, and how many runs that took.

    The run is None when the plan does not fail in this way at all.
    """
    minimiser = Minimiser(seed=seed, kind=kind, until_s=time.monotonic() + limit_s, on_cut=on_cut)
    small = minimiser.small(plan)
    return small, minimiser.lived, minimiser.tries
