"""What a state of the model consists of: two nodes, a database, the controllers, the bus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar

UP, JOINING, FENCING, FENCED = "U", "J", "F", "D"
STARTING, RUNNING, LEAVING = "S", "R", "X"
INCARNATIONS_MAX: Final = 3
EPOCHS_MAX: Final = 4

Gen = tuple[int, int]  # (term, incarnation)
Message = tuple[str | int, ...]
Item = TypeVar("Item")
NOBODY: Final[Gen] = (0, 0)


class Node(NamedTuple):
    power: bool = True
    incarnation: int = 1
    session: Gen = (1, 1)
    runs: int = 0  # the epoch that executes; 0: none
    tomb: int = 0
    begins: int = 0  # a start that was accepted and is not carried out yet
    leftover: int = 0  # what libvirt's autostart would bring back


class Db(NamedTuple):
    """What the database holds; the first content is what it may go back to."""

    states: str = UP + UP
    gens: tuple[Gen, Gen] = ((1, 1), (1, 1))
    dead: tuple[int, int] = (0, 0)  # highest incarnation proven dead
    owner: int = 0
    owner_incarnation: int = 1
    epoch: int = 1
    phase: str = RUNNING
    released: bool = False


class Budget(NamedTuple):
    """How often the world may be unkind."""

    power: int = 0
    suspicions: int = 0
    moves: int = 0
    crashes: int = 0  # of the controllers
    regress: int = 0


class State(NamedTuple):
    nodes: tuple[Node, Node]
    db: Db
    budget: Budget
    term: int = 1
    recovering: bool = False
    heard: tuple[int, int] = (-1, -1)  # in this term: the epoch shown; 0: nothing; -1: not heard
    contested: bool = False
    off: tuple[bool, bool] = (False, False)  # the monitor has read this node's power as off
    alive: bool = True  # the controllers
    memory: Message | None = None  # what they know and have not stored
    bus: frozenset[Message] = frozenset()


Step = tuple[str, bool, State]  # what happens, is it a fault, and then


def dark(node: Node) -> Node:
    """Power off: what is on disk stays, the rest is gone."""
    return Node(
        power=False,
        incarnation=node.incarnation,
        session=NOBODY,
        tomb=node.tomb,
        leftover=node.leftover,
    )


def changed(s: State, here: int, node: Node) -> State:
    return s._replace(nodes=(node, s.nodes[1]) if here == 0 else (s.nodes[0], node))


def put(pair: tuple[Item, Item], here: int, *, value: Item) -> tuple[Item, Item]:
    return (value, pair[1]) if here == 0 else (pair[0], value)


def letter(states: str, here: int, state: str) -> str:
    return state + states[1] if here == 0 else states[0] + state


def say(s: State, message: Message) -> Iterator[Step]:
    if message not in s.bus:
        yield (
            f"n{message[1]} says {message[0]} {message[2:]}",
            False,
            s._replace(bus=s.bus | {message}),
        )
