"""What the oracle believes of what nodes say: the newest word, not the one that came last."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped] # ships no types

from evac_lab.oracle.talk import Talk

NODE = "a" * 32


def _hear(talk: Talk, kind: str, incarnation: int, *, machine: str = "n1", **body: Any) -> None:
    exchange = "evac.heartbeat" if kind == "heartbeat" else "evac.report"
    said = {"node_id": NODE, "incarnation": incarnation, "term": 0, **body}
    user = f"compute-{NODE}"
    talk.hear(user, machine, exchange, f"{user}.{kind}", msgpack.packb(said), 1.0)


def test_a_word_of_the_life_before_that_comes_late_or_again_is_of_the_past() -> None:
    talk = Talk()
    _hear(talk, "registered", 1, boot_id="first")
    _hear(talk, "registered", 2, boot_id="second")

    _hear(talk, "heartbeat", 1)
    _hear(talk, "registered", 1, boot_id="first")

    assert talk.incarnation[NODE] == 2


def test_a_life_that_began_without_a_boot_is_believed() -> None:
    talk = Talk()
    _hear(talk, "registered", 1, boot_id="first")

    _hear(talk, "heartbeat", 2)

    assert talk.incarnation[NODE] == 2


def test_a_new_boot_from_an_old_disk_has_the_lower_incarnation_that_it_tells() -> None:
    talk = Talk()
    _hear(talk, "registered", 5, boot_id="first")

    _hear(talk, "registered", 3, boot_id="second")

    assert talk.incarnation[NODE] == 3


def test_a_copy_of_a_nodes_disk_speaks_in_its_name_and_is_another_machine() -> None:
    talk = Talk()
    _hear(talk, "registered", 3, boot_id="own")

    _hear(talk, "registered", 4, machine="n2", boot_id="copy")

    assert talk.lives == {"n1": 3, "n2": 4}
