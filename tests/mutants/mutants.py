"""The rules of the product, each as a mutant that lacks it; the list is the model's, and more.

`breaks` are the invariants whose violation counts as finding the mutant. Where a rule alone is held
by another (`held_by`), the mutant lacks both, and `alone` is the one without its second defence:
it must *not* be found. That is a result too: it says which rules are the last ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from evac_monitor.core.gate import Gate
from tests.mutants import (
    api_rules,
    bus_rules,
    monitor_rules,
    node_rules,
    restore_rules,
    scheduler_rules,
)
from tests.mutants.patching import Patching

Apply = Callable[[Patching], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    name: str  # as the model calls the rule, where it has it
    rule: str  # what the product promises
    removes: str  # what is missing, in a few words
    breaks: frozenset[str]
    patches: tuple[Apply, ...]
    defences: tuple[Apply, ...] = ()  # further rules that would hold the first
    held_by: str = ""  # what they are, in words
    focus: str  # which seeds are tried: a name of `seeds.FOCI`

    @contextmanager
    def applied(self, *, alone: bool = False) -> Iterator[Patching]:
        """The product without the rule. `alone`: its further defences stay."""
        patching = Patching()
        try:
            for patch in (*self.patches, *(() if alone else self.defences)):
                patch(patching)
            yield patching
        finally:
            patching.undo()


def _mutant(
    name: str,
    rule: str,
    removes: str,
    breaks: str,
    *patches: Apply,
    defences: tuple[Apply, ...] = (),
    held_by: str = "",
    focus: str,
) -> Mutant:
    return Mutant(
        name=name,
        rule=rule,
        removes=removes,
        breaks=frozenset(breaks.split()),
        patches=patches,
        defences=defences,
        held_by=held_by,
        focus=focus,
    )


MUTANTS: Final = (
    _mutant(
        "no-fence",
        "a node is cut off before its instances run elsewhere",
        "the decision is taken for the proof",
        "S1 S4",
        monitor_rules.no_fence,
        focus="cuts",
    ),
    _mutant(
        "ack-unverified",
        "only a power state that was read proves anything",
        "the BMC's answer to the order is the proof",
        "S1 S4",
        monitor_rules.trust_the_order,
        focus="bmcs",
    ),
    _mutant(
        "any-bmc",
        "a BMC says first whose machine it sits on",
        "its identity is not compared",
        "S1 S4",
        monitor_rules.any_bmc,
        focus="bmcs",
    ),
    _mutant(
        "autostart",
        "a hypervisor starts nothing by itself",
        "domains are persistent and start at boot",
        "S1 S2 S6",
        node_rules.autostart,
        focus="boots",
    ),
    _mutant(
        "no-gen",
        "a command is obeyed only in its session",
        "commands are not bound to a session",
        "S1 S6",
        node_rules.any_session,
        focus="blips",
    ),
    _mutant(
        "no-cas",
        "a proof is written only if the node still is what was to be cut off",
        "`fenced` is written for whatever the node has become",
        "S1 S4",
        monitor_rules.no_cas,
        defences=(monitor_rules.no_spare, monitor_rules.kept_readings),
        held_by="tries that end with their node's return, or with the database's absence",
        focus="late-proofs",
    ),
    _mutant(
        "event-driven",
        "events are nudges: what is true stands in the database",
        "the scheduler believes node.down and reads no proof",
        "S1 S3",
        scheduler_rules.events_are_believed,
        defences=(bus_rules.no_trigger,),
        held_by="the ledger's trigger",
        focus="late-events",
    ),
    _mutant(
        "publish-first",
        "a command is published after its commit",
        "starts are published inside the transaction",
        "S1 S2",
        bus_rules.publish_first,
        focus="lost-starts",
    ),
    _mutant(
        "no-outbox",
        "what is to be said stands in the database until it is said",
        "commands are published once, from memory",
        "L1 L6",
        bus_rules.no_outbox,
        defences=(bus_rules.no_resend,),
        held_by="commands that are said again until they are answered",
        focus="lost-for-good",
    ),
    _mutant(
        "reassign-timeout",
        "a time limit frees nothing",
        "an unanswered start is given to another node",
        "S1 S3",
        scheduler_rules.timeout_releases,
        defences=(bus_rules.no_trigger,),
        held_by="the ledger's trigger",
        focus="slow-starts",
    ),
    _mutant(
        "stale-report",
        "a report counts only for its own epoch",
        "any `stopped` of the owner's node releases the present epoch",
        "S1 S3 S7",
        scheduler_rules.any_stop_releases,
        focus="late-words",
    ),
    _mutant(
        "no-tombstone",
        "a node never runs an epoch that it released",
        "released epochs are forgotten",
        "S1 S6",
        node_rules.no_tombstone,
        focus="late-words",
    ),
    _mutant(
        "early-delete",
        "a record goes only after a release or a proof",
        "deleted instances are forgotten at once",
        "S9",
        api_rules.forgets_the_deleted,
        focus="deletes",
    ),
    _mutant(
        "unnoticed-restore",
        "a database that went back in time is noticed",
        "neither a new term nor an inventory",
        "S1 S3 S12",
        restore_rules.unnoticed,
        focus="restores",
    ),
    _mutant(
        "term-only",
        "after a restore nothing starts before every node has spoken",
        "a new term, and no inventory",
        "S1 S3 S12",
        restore_rules.no_waiting,
        focus="restores",
    ),
    _mutant(
        "no-recovering-gate",
        "nobody is cut off while the database is told what it forgot",
        "the gate recovering is open",
        "S13",
        monitor_rules.without_gate(Gate.RECOVERING),
        defences=(monitor_rules.uncounted,),
        held_by="the flags, read again in the decision's transaction",
        focus="restores",
    ),
    _mutant(
        "no-blast-radius",
        "at most a third of the nodes is cut off without a person",
        "the gate blast radius is open",
        "S8",
        monitor_rules.without_gate(Gate.BLAST_RADIUS),
        defences=(monitor_rules.no_storm,),
        held_by="the storm that is declared",
        focus="racks",
    ),
)
BY_NAME: Final = {mutant.name: mutant for mutant in MUTANTS}
