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
    adoption: str | None = None,
    term: int = 1,
    verb: str = "INSERT",
) -> str:
    return (
        f"{verb} INTO ownership (instance_id, epoch, node_id, term, incarnation, run, "
        "proof_node_id, proof_release_id, proof_adoption_id, created_at) "
        f"VALUES ('{vm}', {epoch}, '{node}', {term}, {incarnation}, 1, {quoted(node_proof)}, "
        f"{quoted(release)}, {quoted(adoption)}, {NOW})"
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


def adopted(
    epoch: int, node: str, incarnation: int = 1, *, proof: str, term: int = 2, vm: str = VM
) -> str:
    return (
        "INSERT INTO proof_adoption (id, instance_id, epoch, node_id, incarnation, term, evidence, "
        f"created_at) VALUES ('{proof}', '{vm}', {epoch}, '{node}', {incarnation}, {term}, "
        f"'{{}}', {NOW})"
    )


def recovering(term: int = 2) -> str:
    return f"UPDATE cluster_flags SET recovering = true, term = {term}"


def node(
    name: str, incarnation: int = 1, *, term: int = 2, state: str = "up", down: int = 0
) -> str:
    return (
        "INSERT INTO node_state (node_id, state, term, incarnation, generation, reason, since, "
        f"decision, down_term) VALUES ('{name}', '{state}', {term}, {incarnation}, 1, '', {NOW}, "
        f"'[]', {down})"
    )


def shown(name: str, incarnation: int = 1, *, term: int = 2) -> str:
    """Its inventory was taken in this session."""
    return (
        "INSERT INTO node_inventory (node_id, term, incarnation, taken_at) "
        f"VALUES ('{name}', {term}, {incarnation}, {NOW})"
    )


def seen(epoch: int, name: str, incarnation: int = 1, *, term: int = 2, vm: str = VM) -> str:
    """Its inventory shows this domain."""
    return (
        "INSERT INTO sighting (instance_id, node_id, epoch, run, running, term, incarnation, "
        f"explained, judged_term, seen_at) VALUES ('{vm}', '{name}', {epoch}, 1, true, {term}, "
        f"{incarnation}, false, 0, {NOW})"
    )
