"""Every rule that is removed is missed: the hunt finds it, and finds nothing where none is."""

from __future__ import annotations

import pytest

from evac_lab.oracle.ports import Violation
from tests.mutants import page, record
from tests.mutants.hunting import Run, try_control, try_mutant
from tests.mutants.mutants import MUTANTS, Mutant
from tests.mutants.patching import PatchGone, Patching
from tests.mutants.search import Search
from tests.mutants.seeds import FOCI, SEEDS

RECORD = record.load()
SEARCHED = 12  # seeds tried when the recorded one does not find it any more
NAMES = [mutant.name for mutant in MUTANTS]
LIMIT_S = 600  # of one mutant on a busy machine; alone on a core it takes some 20 s


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_what_it_replaces_exists_and_is_put_back(mutant: Mutant) -> None:
    before = _state()
    with mutant.applied() as patching:
        assert patching.changes >= len(mutant.patches) + len(mutant.defences)
    assert patching.changes == 0
    assert _state() == before


def _state() -> list[object]:
    """What the mutants replace, as it stands now."""
    found: list[object] = []
    for mutant in MUTANTS:
        with mutant.applied() as patching:
            found += patching.originals
    return found


def test_a_function_that_is_gone_or_takes_something_else_is_no_target() -> None:
    patching = Patching()
    with pytest.raises(PatchGone, match="has no nothing"):
        patching.function(record, "nothing", lambda: None)
    with pytest.raises(PatchGone, match="its replacement"):
        patching.function(record, "save", lambda: None)
    with pytest.raises(PatchGone, match="no entry"):
        patching.entry({}, "x", 1)
    assert patching.changes == 0


@pytest.mark.parametrize("name", sorted(FOCI))
def test_a_seed_gives_the_same_scenario_wherever_it_is_drawn(name: str) -> None:
    first, second = FOCI[name].scenario(7), FOCI[name].scenario(7)
    assert first == second
    assert first != FOCI[name].scenario(8)


def test_every_focus_belongs_to_a_mutant() -> None:
    assert {mutant.focus for mutant in MUTANTS} == set(FOCI)


def test_a_search_ends_at_the_lowest_seed_that_finds() -> None:
    search = Search(mutant=MUTANTS[0], limit=5)
    assert [search.take() for _ in range(3)] == [0, 1, 2]
    search.runs[2] = _run(2, found=True)
    assert search.take() is None
    undecided = search.hit
    search.runs[0] = _run(0, found=False)
    search.runs[1] = _run(1, found=False)
    assert (undecided, search.hit) == (None, search.runs[2])
    assert [run.seed for run in search.tried()] == [0, 1, 2]


def _run(seed: int, *, found: bool) -> Run:
    violation = Violation(invariant="S1", at_s=1.0, node=None, instance=None, sentence="twice")
    return Run(
        seed=seed,
        found=violation if found else None,
        others=(),
        bites={},
        virtual_s=1.0,
        cpu_s=1.0,
    )


def test_all_were_found_by_the_last_full_search_and_the_product_broke_nothing() -> None:
    assert sorted(RECORD.hits) == sorted(NAMES)
    assert all(hit.seeds <= SEEDS for hit in RECORD.hits.values())
    assert sorted(RECORD.alone) == sorted(each.name for each in MUTANTS if each.defences)
    assert [each.broken for each in RECORD.alone.values() if each.broken] == []
    assert sorted(RECORD.controls) == sorted(NAMES)
    assert [each.broken for each in RECORD.controls.values() if each.broken] == []


def test_the_page_is_what_the_record_says() -> None:
    written = page.FILE.read_text(encoding="utf-8")
    assert written == page.page(RECORD), "stale: run `python -m tests.mutants --page`"


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_the_hunt_finds_it_and_nothing_without_it(mutant: Mutant) -> None:
    run = _find(mutant)
    assert run is not None, f"{mutant.name}: not found any more: run `python -m tests.mutants`"
    assert run.bites, "found without having made a difference"

    control = try_control(mutant, run.seed, until_s=run.virtual_s)
    assert control.found is None
    assert not control.failed


def _find(mutant: Mutant) -> Run | None:
    """At the recorded seed; else, as the product or the generator has changed, at another."""
    known = RECORD.hits.get(mutant.name)
    seeds = dict.fromkeys(([known.seed] if known else []) + list(range(SEARCHED)))
    return next((run for run in (try_mutant(mutant, seed) for seed in seeds) if run.found), None)
