"""Every name that a scenario's lines use is declared: nodes, instances, pools, replicas, commands.

A line with a typing error would do nothing, and the run would show the calm that follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import typer
from typer.main import get_command

from evac_common.cli.document import Document
from evac_common.cli.main import app as evac_app
from evac_lab.scenario.document import ScenarioDocument
from evac_lab.scenario.expect import (
    EventSeen,
    Expectation,
    InstanceNotRestarted,
    InstanceRuns,
    InstanceStopped,
    InstanceWaits,
    NodeIs,
    NoEvent,
)
from evac_lab.scenario.timeline import (
    RESERVED,
    SHARED_PARTS,
    Action,
    Bmc,
    ClockJump,
    ClockRate,
    Command,
    Disk,
    GuestAct,
    Hang,
    Identity,
    Kill,
    Libvirt,
    Network,
    Orderly,
    Power,
    Resume,
    Start,
    Step,
    Stop,
    Storage,
    controller_of,
)

Path = Sequence[str | int]
NODE: Final = "nodes"
INSTANCE: Final = "instances"
POOL: Final = "pools"


def unknown_names(
    document: ScenarioDocument,
    steps: Sequence[Step],
    expectations: Sequence[Expectation],
    yaml: Document,
) -> list[str]:
    """A sentence for every name that is not declared, with its place."""
    return [
        *_reserved(document, yaml),
        *_in_manifests(document, yaml),
        *_in_timeline(document, steps, yaml),
        *_in_expectations(document, expectations, yaml),
    ]


def _declared(document: ScenarioDocument) -> Mapping[str, Mapping[str, object]]:
    return {NODE: document.nodes, INSTANCE: document.instances, POOL: document.pools}


def _reserved(document: ScenarioDocument, yaml: Document) -> Iterator[str]:
    for name in document.nodes:
        if name in RESERVED or controller_of(name) is not None:
            yield (
                f"{yaml.where([NODE, name])}: a node cannot bear the name of a service or of a "
                f"shared part ({', '.join(RESERVED)})"
            )


def _in_manifests(document: ScenarioDocument, yaml: Document) -> Iterator[str]:
    used: list[tuple[Path, str, str | None]] = []
    for name, pool in document.pools.items():
        used += [([POOL, name, "nodes", n], NODE, node) for n, node in enumerate(pool.nodes)]
    for name, instance in document.instances.items():
        used.append(([INSTANCE, name, "on"], NODE, instance.on))
        used += [
            ([INSTANCE, name, "disks", n, "pool"], POOL, disk.pool)
            for n, disk in enumerate(instance.disks)
        ]
    declared = _declared(document)
    for path, section, used_name in used:
        if used_name is not None and used_name not in declared[section]:
            yield f"{yaml.where(path)}: {used_name!r} is not declared under {section}"


def _in_timeline(
    document: ScenarioDocument, steps: Sequence[Step], yaml: Document
) -> Iterator[str]:
    for index, step in enumerate(steps):
        for problem in _wrong_in(step.action, document):
            where = yaml.where(["timeline", index])
            yield f"{where}: {problem} (got {document.timeline[index]!r})"


def _wrong_in(action: Action, document: ScenarioDocument) -> Iterator[str]:
    match action:
        case Power() | Orderly() | Bmc() | Storage() | Libvirt() | Disk():
            yield from _undeclared(document, NODE, action.node)
        case Kill() | Stop() | Start() | Hang() | Resume():
            if action.node is None:
                yield from _no_replica(document, action.service)
            else:
                yield from _undeclared(document, NODE, action.node)
        case Network(endpoint=endpoint, peer=peer):
            yield from _no_target(document, endpoint)
            if peer is not None and peer not in SHARED_PARTS:
                yield from _undeclared(document, NODE, peer)
        case GuestAct(instance=instance):
            yield from _undeclared(document, INSTANCE, instance)
        case Identity(node=node, of=of):
            yield from _undeclared(document, NODE, node)
            if of is not None:
                yield from _undeclared(document, NODE, of)
        case ClockJump(target=target) | ClockRate(target=target):
            yield from _no_target(document, target)
        case Command(argv=argv):
            yield from _no_command(argv)
        case _:
            pass


def _undeclared(document: ScenarioDocument, section: str, name: str) -> Iterator[str]:
    if name not in _declared(document)[section]:
        yield f"{name!r} is not declared under {section}"


def _no_target(document: ScenarioDocument, name: str) -> Iterator[str]:
    """A node, a controller or one of its replicas."""
    if controller_of(name) is not None:
        yield from _no_replica(document, name)
    elif name not in document.nodes:
        yield f"{name!r} is not declared under {NODE}, nor is it api, scheduler or monitor"


def _no_replica(document: ScenarioDocument, name: str) -> Iterator[str]:
    known = controller_of(name)
    if known is None:
        yield f"{name!r} is no service"
        return
    service, number = known
    replicas = document.replicas.of(service)
    if number is not None and number > replicas:
        yield f"{name!r} does not exist: `replicas` gives {service} {replicas}"


def _no_command(argv: Sequence[str]) -> Iterator[str]:
    """A command of `evac`, with options and arguments that it takes."""
    command: Any = get_command(evac_app)
    said = "evac"
    for index, word in enumerate(argv):
        children = getattr(command, "commands", None)
        if children is None:
            yield from _not_taken(command, said, argv[index:])
            return
        if word not in children:
            yield f"`{said} {word}` is no command; known are {', '.join(sorted(children))}"
            return
        command, said = children[word], f"{said} {word}"
    if getattr(command, "commands", None) is not None:
        yield f"`{said}` needs one of {', '.join(sorted(command.commands))}"
    else:
        yield from _not_taken(command, said, ())


def _not_taken(command: Any, said: str, arguments: Sequence[str]) -> Iterator[str]:
    try:
        command.make_context(said, list(arguments))
    except typer.TyperException as error:
        yield f"`{said}`: {error.format_message()}"
    except typer.Exit:
        yield f"`{said}`: an option that only prints and ends does nothing here"


def _in_expectations(
    document: ScenarioDocument, expectations: Sequence[Expectation], yaml: Document
) -> Iterator[str]:
    for index, expectation in enumerate(expectations):
        for problem in _wrong_expected(expectation, document):
            where = yaml.where(["expect", index])
            yield f"{where}: {problem} (got {document.expect[index]!r})"


def _wrong_expected(expectation: Expectation, document: ScenarioDocument) -> Iterator[str]:
    match expectation:
        case InstanceRuns(instance=instance, node=node):
            yield from _undeclared(document, INSTANCE, instance)
            if node is not None:
                yield from _undeclared(document, NODE, node)
        case InstanceStopped() | InstanceWaits() | InstanceNotRestarted():
            yield from _undeclared(document, INSTANCE, expectation.instance)
        case NodeIs(node=node):
            yield from _undeclared(document, NODE, node)
        case EventSeen(of=of) | NoEvent(of=of):
            if of is not None and of not in document.nodes and of not in document.instances:
                yield f"{of!r} is declared under neither {NODE} nor {INSTANCE}"
        case _:
            pass
