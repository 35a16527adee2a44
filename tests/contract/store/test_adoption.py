"""An epoch that the database has forgotten is adopted under these rules, whoever asks: raw SQL."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from sqlalchemy.exc import IntegrityError

from tests.contract.store.database import Database, an_id
from tests.contract.store.ledger import (
    N1,
    N2,
    N3,
    OTHER_VM,
    adopted,
    dead,
    node,
    owner,
    recovering,
    released,
    seen,
    shown,
)

P1, P2 = an_id(101), an_id(102)

# The ledger ends with epoch 1 of n1; n2 shows epoch 3; both nodes were heard in the new term.
LOST = (
    owner(1, N1),
    recovering(),
    node(N1),
    node(N2),
    shown(N1),
    shown(N2),
    seen(3, N2),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    given: tuple[str, ...]
    then: tuple[str, ...] = (adopted(3, N2, proof=P1), owner(3, N2, adoption=P1, term=2))
    refused: str | None = None


def without(*left_out: str) -> tuple[str, ...]:
    assert set(left_out) <= set(LOST), "a rule is tried by leaving out what it asks for"
    return tuple(statement for statement in LOST if statement not in left_out)


CASES = (
    Case(name="shown by one node, and everybody was heard", given=LOST),
    Case(name="an instance whose first owner was forgotten", given=without(owner(1, N1))),
    Case(
        name="a node that was proven down in this recovery needs not be heard",
        given=(*without(node(N1), shown(N1)), node(N1, state="fenced", term=1, down=2)),
    ),
    Case(
        name="a node that never registered has nothing",
        given=(*LOST, node(N3, 0, term=0, state="new")),
    ),
    Case(
        name="a rival below the ledger's last epoch is over by the ledger's own proof",
        given=(
            *without(owner(1, N1)),
            owner(1, N3),
            released(1, N3, proof=P2),
            owner(2, N1, release=P2),
            seen(1, N1),
        ),
    ),
    Case(
        name="a rival whose epoch was released",
        given=(*LOST, released(1, N1, proof=P2), seen(1, N1)),
    ),
    Case(
        name="the next owner needs an ordinary proof about the adopted one",
        given=LOST,
        then=(
            adopted(3, N2, proof=P1),
            owner(3, N2, adoption=P1, term=2),
            dead(N2, 1, proof=P2),
            owner(4, N1, node_proof=P2, term=2),
        ),
    ),
    Case(
        name="not while the cluster is not recovering",
        given=(*LOST, "UPDATE cluster_flags SET recovering = false"),
        refused="evac: unproven: nothing is adopted",
    ),
    Case(
        name="not in an earlier term",
        given=(*LOST, recovering(3)),
        refused="evac: unproven: nothing is adopted",
    ),
    Case(
        name="not from a node in another session",
        given=(*without(node(N2)), node(N2, 2)),
        refused="evac: unproven: the node is in another session",
    ),
    Case(
        name="not what nobody shows",
        given=without(seen(3, N2)),
        refused="evac: unproven: the node does not show",
    ),
    Case(
        name="not another epoch than the one shown",
        given=LOST,
        then=(adopted(4, N2, proof=P1),),
        refused="evac: unproven: the node does not show",
    ),
    Case(
        name="not what was shown in the lost history's session",
        given=(*without(seen(3, N2)), seen(3, N2, term=1)),
        refused="evac: unproven: the node does not show",
    ),
    Case(
        name="not from an incarnation that is proven dead",
        given=(*LOST, dead(N2, 1, proof=P2)),
        refused="evac: ledger: the node's incarnation is proven dead",
    ),
    Case(
        name="not an epoch that the ledger has",
        given=(*LOST, released(1, N1, proof=P2), owner(2, N1, release=P2), seen(2, N3)),
        then=(adopted(2, N2, proof=P1),),
        refused="evac: (conflict|unproven)",
    ),
    Case(
        name="not while a node was not heard",
        given=without(shown(N1)),
        refused="evac: unproven: a node has neither",
    ),
    Case(
        name="not while a node was heard in its earlier life only",
        given=(*without(node(N1)), node(N1, 2)),
        refused="evac: unproven: a node has neither",
    ),
    Case(
        name="a proof of before the recovery does not stand for a node's word",
        given=(*without(node(N1), shown(N1)), node(N1, state="fenced", term=1)),
        refused="evac: unproven: a node has neither",
    ),
    Case(
        name="not while the ledger's living owner shows its copy",
        given=(*LOST, seen(1, N1)),
        refused="evac: unproven: another node shows a copy",
    ),
    Case(
        name="not while another node shows a forgotten copy too, also a lower one",
        given=(*LOST, seen(2, N1)),
        refused="evac: unproven: another node shows a copy",
    ),
    Case(
        name="an owner that names an adoption of something else",
        given=(*LOST, seen(3, N2, vm=OTHER_VM), adopted(3, N2, proof=P1, vm=OTHER_VM)),
        then=(owner(3, N2, adoption=P1, term=2),),
        refused="evac: unproven: this epoch of this node was not adopted",
    ),
    Case(
        name="an adoption does not excuse another node",
        given=(*LOST, adopted(3, N2, proof=P1)),
        then=(owner(3, N1, adoption=P1, term=2),),
        refused="evac: unproven: this epoch of this node was not adopted",
    ),
    Case(
        name="an adoption is not kept for later",
        given=(*LOST, adopted(3, N2, proof=P1), "UPDATE cluster_flags SET recovering = false"),
        then=(owner(3, N2, adoption=P1, term=2),),
        refused="evac: unproven: this epoch of this node was not adopted",
    ),
    Case(
        name="an adoption beside another proof",
        given=(*LOST, released(1, N1, proof=P2), adopted(3, N2, proof=P1)),
        then=(owner(3, N2, adoption=P1, release=P2, term=2),),
        refused="evac: unproven: an adopted epoch takes no other proof",
    ),
    *(
        Case(
            name=f"an adoption stays as it is: {change}",
            given=(*LOST, adopted(3, N2, proof=P1)),
            then=(change,),
            refused="evac: ledger: rows of proof_adoption stay",
        )
        for change in ("UPDATE proof_adoption SET epoch = 9", "DELETE FROM proof_adoption")
    ),
    Case(
        name="an owner's adoption does not change",
        given=(*LOST, adopted(3, N2, proof=P1), owner(3, N2, adoption=P1, term=2)),
        then=("UPDATE ownership SET run = run + 1, proof_adoption_id = NULL WHERE epoch = 3",),
        refused="evac: ledger: nothing changes",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_database_decides(database: Database, case: Case) -> None:
    database.sql(*case.given)
    if case.refused is None:
        database.sql(*case.then)
        return
    with pytest.raises(IntegrityError, match=case.refused):
        database.sql(*case.then)
