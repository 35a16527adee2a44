"""What a session asks of the node: which domains end, which are kept, which only an operator may
judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evac_compute.core.checks import Present


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`release`: instance → epoch whose tombstone is written (also where no domain is left).
    `destroy`: instance → why; `quarantine`: instance → why; `over`: instance → epoch that the
    session gives to this node though it has released it: to be said again. In the order of ids.
    """

    release: Mapping[str, int]
    destroy: Mapping[str, str]
    quarantine: Mapping[str, str]
    over: Mapping[str, int]


def plan(
    allowed: Mapping[str, int],
    superseded: Mapping[str, int],
    tombs: Mapping[str, int],
    domains: Mapping[str, Present],
    *,
    first_of_term: bool,
) -> Plan:
    """Nothing is destroyed on ignorance: only what was named, or what the node itself released.

    `first_of_term`: no session of its term was applied before. Then a database that went back may
    have forgotten a release, and nobody would ask for it ever again. In a later one the node's
    report of it is on the way, or the database went back and nobody has noticed: then it would free
    an epoch that a later owner follows.
    """
    release = {
        instance_id: epoch
        for instance_id, epoch in sorted(superseded.items())
        if epoch > tombs.get(instance_id, 0) and epoch > 0
    }
    destroy: dict[str, str] = {}
    quarantine: dict[str, str] = {}
    for instance_id, domain in sorted(domains.items()):
        if domain.epoch < 1:
            quarantine[instance_id] = "the domain does not say which epoch it is"
        elif domain.epoch <= superseded.get(instance_id, 0):
            destroy[instance_id] = f"epoch {domain.epoch} is superseded"
        elif domain.epoch <= tombs.get(instance_id, 0):
            destroy[instance_id] = f"epoch {domain.epoch} was released by this node"
        elif allowed.get(instance_id) != domain.epoch:
            quarantine[instance_id] = _unknown(domain.epoch, allowed.get(instance_id))
    over = {
        instance_id: epoch
        for instance_id, epoch in sorted(allowed.items())
        if first_of_term and epoch <= tombs.get(instance_id, 0)
    }
    return Plan(release=release, destroy=destroy, quarantine=quarantine, over=over)


def _unknown(epoch: int, allowed: int | None) -> str:
    if allowed is None:
        return f"epoch {epoch} is not in the session"
    return f"epoch {epoch} is here, the session allows epoch {allowed}"
