"""Ledger rows as raw SQL, so that a test asks the database itself and not our statements."""

from __future__ import annotations

from tests.contract.store.database import an_id

NOW = "'2026-01-01 12:00:00+00:00'"
VM, OTHER_VM = an_id(1), an_id(2)
N1, N2, N3 = an_id(11), an_id(12), an_id(13)


def quoted(value: str | None) -> str:
    return "NULL" if value is None else f"'{value}'"


def owner(
    epoch: int,
    node: str,
    incarnation: int = 1,
    *,
    vm: str = VM,
    node_proof: str | None = None,
    release: str | None = None,
    verb: str = "INSERT",
) -> str:
    return (
        f"{verb} INTO ownership (instance_id, epoch, node_id, term, incarnation, run, "
        f"proof_node_id, proof_release_id, created_at) VALUES ('{vm}', {epoch}, '{node}', 1, "
        f"{incarnation}, 1, {quoted(node_proof)}, {quoted(release)}, {NOW})"
    )


def dead(node: str, incarnation: int, *, proof: str, verb: str = "INSERT") -> str:
    return (
        f"{verb} INTO proof_node (id, node_id, incarnation, kind, evidence, actor, created_at) "
        f"VALUES ('{proof}', '{node}', {incarnation}, 'power', '{{}}', 'monitor', {NOW})"
    )


def released(epoch: int, node: str, *, proof: str, vm: str = VM, verb: str = "INSERT") -> str:
    return (
        f"{verb} INTO proof_release (id, instance_id, epoch, node_id, kind, evidence, created_at) "
        f"VALUES ('{proof}', '{vm}', {epoch}, '{node}', 'stopped', 'said so', {NOW})"
    )
