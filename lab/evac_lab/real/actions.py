"""What a real lab can do of a time line; all else is refused by line before anything starts.

A scenario that silently did half of what it says would prove nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import httpx2

from evac_common.cli.document import DocumentInvalid
from evac_common.cli.main import run as evac_command
from evac_common.cli.output import Output
from evac_common.cli.session import Session
from evac_lab.real.processes import Daemon
from evac_lab.scenario.reading import Scenario
from evac_lab.scenario.timeline import (
    COMPUTE,
    CONTROLLERS,
    Action,
    Bmc,
    BmcState,
    Command,
    Direction,
    End,
    Kill,
    Network,
    Power,
    controller_of,
)


class RealHardware(Protocol):
    """What both real clusters do."""

    async def power(self, name: str, *, on: bool) -> None: ...

    async def network(self, name: str, *, on: bool) -> None: ...

    async def bmc(self, name: str, state: BmcState) -> None: ...

    async def kill(self, service: str, node: str | None) -> None: ...


def _say(state: BmcState, faults: Path) -> None:
    if state is BmcState.ON:
        faults.unlink(missing_ok=True)
    else:
        faults.write_text(state.value)


async def make_bmc(
    state: BmcState, process: Daemon, faults: Path, start: Callable[[], Awaitable[None]]
) -> None:
    """Bring a BMC into a state: whether its process runs, and the word in its faults file."""
    if state is BmcState.OFF:
        await process.kill9()
        return
    _say(state, faults)
    if not process.is_running():
        await start()


def refuse_what_no_real_lab_does(scenario: Scenario) -> None:
    """Raises DocumentInvalid naming every line that only a simulated cluster carries out."""
    problems = [
        f"{scenario.source}:{line}: timeline[{index}]: a real lab cannot do this: it does "
        f"{_WHAT}; `evac-lab simulate` does all (got {step.text!r})"
        for index, (step, line) in enumerate(zip(scenario.steps, scenario.lines, strict=True))
        if not _is_possible(step.action)
    ]
    replicas = scenario.document.replicas
    problems += [
        f"{scenario.source}: replicas.{service}: a real lab runs one of each controller "
        f"(got {replicas.of(service)})"
        for service in CONTROLLERS
        if replicas.of(service) != 1
    ]
    if witnesses := scenario.document.witnesses:
        got = ", ".join(sorted(witnesses))
        problems.append(f"{scenario.source}: witnesses: a real lab has none (got {got})")
    if problems:
        raise DocumentInvalid("\n".join(problems))


_WHAT = "`power`, `network NODE off|on`, `bmc`, `kill` of a whole service, `evac` and `end`"


def _is_possible(action: Action) -> bool:
    match action:
        case Power() | Bmc() | Command() | End():
            return True
        case Network(peer=None, direction=Direction.BOTH, endpoint=endpoint):
            return controller_of(endpoint) is None
        case Kill(service=service):
            return service in {*CONTROLLERS, COMPUTE}
        case _:
            return False


async def act(hardware: RealHardware, action: Action) -> None:
    """Carry out an action that `refuse_what_no_real_lab_does` let pass."""
    match action:
        case Power(node=node, on=on):
            await hardware.power(node, on=on)
        case Network(endpoint=node, on=on):
            await hardware.network(node, on=on)
        case Bmc(node=node, state=state):
            await hardware.bmc(node, state)
        case Kill(service=service, node=owner):
            await hardware.kill(service, owner)
        case _:
            raise AssertionError(f"refused before the start: {action}")


async def evac(api: httpx2.AsyncClient, token: str, argv: Sequence[str], output: Output) -> int:
    """Run one command of the operator against the lab's api, as a shell would; its exit code."""
    environment = {"EVAC_URL": str(api.base_url), "EVAC_TOKEN": token}
    return await evac_command(argv, Session(out=output, environment=environment))
