"""Random statements against the ledger and against a few lines of plain Python: they agree."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from evac_common.store.migrations import migrate

VMS = st.sampled_from(["vm1", "vm2"])
NODES = st.sampled_from(["n1", "n2", "n3"])
SMALL = st.integers(min_value=0, max_value=4)
PROOFS = st.integers(min_value=0, max_value=12)


@dataclass
class Row:
    node: str
    incarnation: int
    run: int
    node_proof: int | None
    release: int | None


@dataclass
class Model:
    """The ledger's rules, as a person would say them."""

    rows: dict[tuple[str, int], Row] = field(default_factory=dict)
    dead: dict[int, tuple[str, int]] = field(default_factory=dict)  # proof → node, incarnation
    released: dict[int, tuple[str, int]] = field(default_factory=dict)  # proof → vm, epoch

    def may_assign(self, vm: str, epoch: int, row: Row) -> bool:
        last = max((known for name, known in self.rows if name == vm), default=0)
        if epoch != last + 1 or any(
            node == row.node and upto >= row.incarnation for node, upto in self.dead.values()
        ):
            return False
        if epoch == 1:
            return row.node_proof is None and row.release is None
        if (row.node_proof is None) == (row.release is None):
            return False
        if row.release is not None:
            return self.released.get(row.release) == (vm, epoch - 1)
        previous = self.rows[vm, epoch - 1]
        node, upto = self.dead.get(row.node_proof or -1, ("", -1))
        return node == previous.node and upto >= previous.incarnation

    def may_prove(self, proof: int, node: str, incarnation: int) -> bool:
        return proof not in self.dead and (node, incarnation) not in self.dead.values()

    def may_release(self, proof: int, vm: str, epoch: int, node: str) -> bool:
        owner = self.rows.get((vm, epoch))
        return (
            owner is not None
            and owner.node == node
            and proof not in self.released
            and (vm, epoch) not in self.released.values()
        )


class Ledger(RuleBasedStateMachine):
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="evac-ledger-"))
        self.model = Model()

    @initialize()
    def open(self) -> None:
        path = self.folder / "evac.db"
        path.write_bytes(self.template.read_bytes())
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("PRAGMA foreign_keys=ON")
        self.database.execute("PRAGMA synchronous=OFF")

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    def accepted(self, statement: str, *values: object) -> bool:
        try:
            return self.database.execute(statement, values).rowcount > 0
        except sqlite3.IntegrityError as refusal:
            if not str(refusal).startswith("evac: "):
                raise
            return False

    @rule(
        vm=VMS,
        later=st.sampled_from([0, 1, 1, 1, 1, 2]),
        node=NODES,
        incarnation=SMALL,
        node_proof=st.none() | PROOFS,
        release=st.none() | PROOFS,
        verb=st.sampled_from(["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE"]),
    )
    def assign(
        self,
        *,
        vm: str,
        later: int,
        node: str,
        incarnation: int,
        node_proof: int | None,
        release: int | None,
        verb: str,
    ) -> None:
        self._assign(vm, later, Row(node, incarnation, 1, node_proof, release), verb)

    @rule(vm=VMS, node=NODES, incarnation=SMALL, data=st.data())
    def assign_with_a_proof_that_exists(
        self, vm: str, node: str, incarnation: int, data: st.DataObject
    ) -> None:
        """Else the accepted cases, from epoch 2 on, would be too rare."""
        known: list[tuple[int | None, int | None]] = [(proof, None) for proof in self.model.dead]
        known += [(None, proof) for proof in self.model.released]
        if known:
            proofs = data.draw(st.sampled_from(known))
            self._assign(vm, 1, Row(node, incarnation, 1, *proofs), "INSERT")

    def _assign(self, vm: str, later: int, row: Row, verb: str) -> None:
        last = max((known for name, known in self.model.rows if name == vm), default=0)
        epoch = last + later
        allowed = self.model.may_assign(vm, epoch, row)
        assert allowed == self.accepted(
            f"{verb} INTO ownership (instance_id, epoch, node_id, term, incarnation, run, "
            "proof_node_id, proof_release_id, created_at) VALUES (?, ?, ?, 1, ?, 1, ?, ?, 'now')",
            vm,
            epoch,
            row.node,
            row.incarnation,
            _text(row.node_proof),
            _text(row.release),
        )
        if allowed:
            self.model.rows[vm, epoch] = row

    @rule(proof=PROOFS, node=NODES, incarnation=SMALL)
    def prove(self, proof: int, node: str, incarnation: int) -> None:
        allowed = self.model.may_prove(proof, node, incarnation)
        assert allowed == self.accepted(
            "INSERT INTO proof_node (id, node_id, incarnation, kind, evidence, actor, created_at) "
            "VALUES (?, ?, ?, 'power', '{}', 'm', 'now')",
            str(proof),
            node,
            incarnation,
        )
        if allowed:
            self.model.dead[proof] = (node, incarnation)

    @rule(proof=PROOFS, vm=VMS, epoch=SMALL, node=NODES)
    def release(self, proof: int, vm: str, epoch: int, node: str) -> None:
        self._release(proof, vm, epoch, node)

    @rule(proof=PROOFS, data=st.data())
    def release_an_owner(self, proof: int, data: st.DataObject) -> None:
        if self.model.rows:
            vm, epoch = data.draw(st.sampled_from(sorted(self.model.rows)))
            self._release(proof, vm, epoch, self.model.rows[vm, epoch].node)

    def _release(self, proof: int, vm: str, epoch: int, node: str) -> None:
        allowed = self.model.may_release(proof, vm, epoch, node)
        assert allowed == self.accepted(
            "INSERT INTO proof_release (id, instance_id, epoch, node_id, kind, evidence, "
            "created_at) VALUES (?, ?, ?, ?, 'stopped', '', 'now')",
            str(proof),
            vm,
            epoch,
            node,
        )
        if allowed:
            self.model.released[proof] = (vm, epoch)

    @rule(vm=VMS, epoch=SMALL, run=SMALL)
    def set_run(self, vm: str, epoch: int, run: int) -> None:
        row = self.model.rows.get((vm, epoch))
        allowed = row is not None and run > row.run
        assert allowed == self.accepted(
            "UPDATE ownership SET run = ? WHERE instance_id = ? AND epoch = ?", run, vm, epoch
        )
        if row is not None and allowed:
            row.run = run

    @rule(vm=VMS, node=NODES, verb=st.sampled_from(["UPDATE", "UPDATE OR REPLACE"]))
    def steal(self, vm: str, node: str, verb: str) -> None:
        statement = f"{verb} ownership SET node_id = ?, run = run + 1 WHERE instance_id = ?"
        already = all(row.node == node for (name, _), row in self.model.rows.items() if name == vm)
        if not already:
            assert not self.accepted(statement, node, vm)

    @rule(table=st.sampled_from(["ownership", "proof_node", "proof_release"]))
    def forget(self, table: str) -> None:
        assert not self.accepted(f"DELETE FROM {table}")

    @invariant()
    def the_database_holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "database"):
            return
        found = self.database.execute(
            "SELECT instance_id, epoch, node_id, incarnation, run FROM ownership ORDER BY 1, 2"
        ).fetchall()
        assert found == [
            (vm, epoch, row.node, row.incarnation, row.run)
            for (vm, epoch), row in sorted(self.model.rows.items())
        ]
        proofs = self.database.execute("SELECT count(*) FROM proof_node").fetchone()[0]
        assert proofs == len(self.model.dead)


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)


@pytest.mark.slow
def test_the_ledger_and_the_model_agree(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path / 'evac.db'}")
    Ledger.template = tmp_path / "evac.db"
    run_state_machine_as_test(
        Ledger, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
