"""What a registering node may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac_common.model.states import NodeState
from evac_monitor.core import registration
from evac_monitor.core.registration import Domain, Owner, Recorded, Told
from evac_monitor.core.states import On

ME, OTHER = "a" * 32, "b" * 32
UUID = "01234567-89ab-cdef-0123-456789abcdef"
VM = "1" * 32


def recorded(state: NodeState = NodeState.UP, incarnation: int = 3, **fields: object) -> Recorded:
    values: dict[str, object] = {"term": 1, "dmi_uuid": UUID, "boot_id": "boot-3"} | fields
    return Recorded(node_id=ME, state=state, incarnation=incarnation, **values)  # type: ignore[arg-type] # a test's own shorthand


def told(
    incarnation: int = 3, *domains: Domain, dmi_uuid: str = UUID, boot_id: str | None = None
) -> Told:
    return Told(
        incarnation=incarnation,
        dmi_uuid=dmi_uuid,
        boot_id=boot_id or f"boot-{incarnation}",
        inventory=domains,
    )


def owner(
    epoch: int,
    node: str = ME,
    incarnation: int = 3,
    *,
    released: bool = False,
    dead: bool = False,
) -> Owner:
    return Owner(
        instance_id=VM,
        epoch=epoch,
        node_id=node,
        incarnation=incarnation,
        released=released,
        dead=dead,
    )


def test_another_dmi_uuid_is_refused() -> None:
    decision = registration.decide(recorded(), told(dmi_uuid=UUID.replace("0", "f")), [])

    assert isinstance(decision, registration.Refuse)
    assert "DMI UUID" in decision.why


def test_the_case_of_a_dmi_uuid_does_not_matter() -> None:
    decision = registration.decide(recorded(), told(dmi_uuid=UUID.upper()), [])

    assert isinstance(decision, registration.OpenSession)


def test_a_lower_incarnation_is_refused() -> None:
    decision = registration.decide(recorded(incarnation=3), told(2), [])

    assert isinstance(decision, registration.Refuse)
    assert decision.why == "incarnation 2 is lower than the recorded 3"


def test_a_first_registration_proves_nothing_and_opens_a_session() -> None:
    decision = registration.decide(recorded(NodeState.NEW, 0, term=0, dmi_uuid=None), told(1), [])

    assert isinstance(decision, registration.OpenSession)
    assert decision.on is On.REGISTERED
    assert decision.proof_incarnation is None
    assert not decision.rebooted


@pytest.mark.parametrize(
    "state",
    [NodeState.UP, NodeState.JOINING, NodeState.SUSPECT, NodeState.FENCING, NodeState.BLOCKED],
)
def test_a_higher_incarnation_proves_all_lower_ones_dead(state: NodeState) -> None:
    decision = registration.decide(recorded(state, 3), told(5), [])

    assert isinstance(decision, registration.OpenSession)
    assert decision.on is On.HIGHER_INCARNATION
    assert decision.proof_incarnation == 4
    assert decision.rebooted


def test_after_fencing_the_proof_is_there_already_and_nothing_rebooted_by_surprise() -> None:
    decision = registration.decide(recorded(NodeState.FENCED, 3, proven_incarnation=3), told(4), [])

    assert isinstance(decision, registration.OpenSession)
    assert decision.proof_incarnation is None
    assert not decision.rebooted


@pytest.mark.parametrize("state", [NodeState.UP, NodeState.JOINING, NodeState.SUSPECT])
def test_the_same_incarnation_gets_its_session_again(state: NodeState) -> None:
    decision = registration.decide(
        recorded(state), told(3, Domain(instance_id=VM, epoch=1)), [owner(1)]
    )

    assert isinstance(decision, registration.OpenSession)
    assert decision.on is On.REGISTERED
    assert decision.contract.allowed == {VM: 1}
    assert decision.proof_incarnation is None


@pytest.mark.parametrize("state", [NodeState.FENCING, NodeState.BLOCKED])
def test_the_same_incarnation_gets_nothing_while_it_is_being_cut_off(state: NodeState) -> None:
    assert isinstance(registration.decide(recorded(state), told(3), []), registration.Ignore)


def test_the_same_incarnation_after_a_proof_may_keep_nothing() -> None:
    decision = registration.decide(
        recorded(NodeState.FENCED), told(3, Domain(instance_id=VM, epoch=1)), [owner(1)]
    )

    assert isinstance(decision, registration.StillAlive)
    assert decision.contract.allowed == {}
    assert decision.contract.superseded == {VM: 1}


def contract(seen: Domain | None, row: Owner | None, incarnation: int = 3) -> registration.Contract:
    inventory = (seen,) if seen else ()
    return registration.contract(ME, told(incarnation, *inventory), [row] if row else [])


def test_a_row_of_an_earlier_incarnation_is_not_allowed_and_its_domain_goes() -> None:
    result = contract(Domain(instance_id=VM, epoch=2), owner(2, incarnation=2))

    assert result == registration.Contract(allowed={}, superseded={VM: 2})


def test_a_domain_of_an_epoch_that_moved_on_goes() -> None:
    result = contract(Domain(instance_id=VM, epoch=2), owner(3, OTHER))

    assert result == registration.Contract(allowed={}, superseded={VM: 2})


def test_a_domain_of_the_very_epoch_that_another_node_owns_may_be_the_only_living_copy() -> None:
    result = contract(Domain(instance_id=VM, epoch=3), owner(3, OTHER))

    assert result == registration.Contract()


@pytest.mark.parametrize("how", [{"released": True}, {"dead": True}])
def test_it_goes_when_that_owners_epoch_is_over(how: dict[str, bool]) -> None:
    result = contract(Domain(instance_id=VM, epoch=3), owner(3, OTHER, **how))

    assert result == registration.Contract(allowed={}, superseded={VM: 3})


@pytest.mark.parametrize("state", [state for state in NodeState if state is not NodeState.NEW])
def test_the_same_incarnation_from_another_boot_is_a_journal_that_went_back(
    state: NodeState,
) -> None:
    decision = registration.decide(recorded(state), told(3, boot_id="boot-4"), [])

    assert isinstance(decision, registration.Refuse)
    assert "journal went back" in decision.why


def test_an_incarnation_that_rose_without_a_boot_is_a_node_that_emptied_itself() -> None:
    decision = registration.decide(
        recorded(NodeState.FENCED, proven_incarnation=3), told(4, boot_id="boot-3"), []
    )

    assert isinstance(decision, registration.OpenSession)


def test_an_older_domain_beside_an_allowed_epoch_goes_and_the_own_epoch_stays() -> None:
    result = contract(Domain(instance_id=VM, epoch=1), owner(2))

    assert result == registration.Contract(allowed={VM: 2}, superseded={VM: 1})


def test_a_released_epoch_is_not_allowed() -> None:
    result = contract(Domain(instance_id=VM, epoch=2), owner(2, released=True))

    assert result == registration.Contract(allowed={}, superseded={VM: 2})


def test_what_the_ledger_does_not_know_is_named_nowhere() -> None:
    assert contract(Domain(instance_id=VM, epoch=2), None) == registration.Contract()
    assert contract(Domain(instance_id=VM, epoch=9), owner(2, OTHER)) == registration.Contract()


def test_an_own_row_is_allowed_though_its_domain_is_missing() -> None:
    assert contract(None, owner(2)) == registration.Contract(allowed={VM: 2})


@given(
    epoch=st.integers(1, 5),
    row_epoch=st.integers(1, 5),
    node=st.sampled_from([ME, OTHER]),
    row_incarnation=st.integers(1, 3),
    released=st.booleans(),
)
def test_an_allowed_epoch_is_never_superseded(
    epoch: int, row_epoch: int, node: str, row_incarnation: int, released: bool
) -> None:
    row = owner(row_epoch, node, row_incarnation, released=released)

    result = contract(Domain(instance_id=VM, epoch=epoch), row)

    for instance, allowed in result.allowed.items():
        assert result.superseded.get(instance, 0) < allowed
        assert (node, row_incarnation, released) == (ME, 3, False)
