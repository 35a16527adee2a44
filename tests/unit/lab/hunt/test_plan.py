"""A seed is a scenario: readable, the same everywhere, honest, and with an end to every fault."""

from __future__ import annotations

from collections import Counter

import pytest

from evac_lab.hunt.honest import lies, still_ill, well_since_s
from evac_lab.hunt.live import CALM_S
from evac_lab.hunt.plan import OLD_DISK_BOOTS, Mix, Size, plan
from evac_lab.hunt.written import as_text, scenario_of
from evac_lab.scenario.reading import from_text

SEEDS = range(40)
HOUR = Size()

# A line that strikes each cell of the fault matrix.
STRIKES = {
    "A": ("kill api", "hang api", "stop api", "clock api jump", "clock api rate"),
    "S": ("kill scheduler", "hang scheduler", "stop scheduler", "clock scheduler jump"),
    "M": ("kill monitor", "hang monitor", "stop monitor", "clock monitor jump"),
    "C": ("kill compute@", "hang compute@", "stop compute@", "disk n", "identity n", "power n"),
    "B": ("broker off", "broker alarm", *(f"bus {k}" for k in ("lose", "delay", "reorder"))),
    "D": ("database off", "database slow", "database readonly", "database lose-ack"),
    "V": ("libvirt n", "guest vm-"),
    "P": ("bmc n",),
    "N": ("storage n",),
    "W": ("network n", "network monitor", "network scheduler", "network api"),
}


def test_the_same_seed_is_the_same_text_and_another_seed_is_another() -> None:
    assert as_text(plan(7, HOUR)) == as_text(plan(7, HOUR))
    assert len({as_text(plan(seed, HOUR)) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_written_reads_as_what_is_run(seed: int) -> None:
    document = plan(seed, Size(nodes=3, instances=5, hours=0.5))

    read = from_text(as_text(document), "scenario.yaml")

    assert read.document == scenario_of(document).document
    assert read.steps == scenario_of(document).steps


@pytest.mark.parametrize("mix", list(Mix))
def test_every_fault_ends_before_a_calm_that_is_long_enough(mix: Mix) -> None:
    for seed in SEEDS:
        steps = scenario_of(plan(seed, HOUR, mix)).steps

        assert not still_ill(steps), seed
        well_s = well_since_s(steps)
        assert well_s is not None, seed
        assert steps[-1].at_s - well_s >= CALM_S, seed


@pytest.mark.parametrize("mix", list(Mix))
def test_the_operator_vouches_only_for_nodes_that_are_off(mix: Mix) -> None:
    vouched = 0
    for seed in SEEDS:
        scenario = scenario_of(plan(seed, HOUR, mix))
        assert list(lies(scenario.steps)) == [], seed
        vouched += sum("confirm-down" in step.text for step in scenario.steps)
    assert vouched > 0


def test_in_the_calm_only_nodes_that_evac_leaves_to_a_person_are_rebooted() -> None:
    seen = Counter[str]()
    for seed in SEEDS:
        document = plan(seed, HOUR)
        boots = dict.fromkeys(document["nodes"], 0)
        boots |= {name: 1 for name, node in document["nodes"].items() if "power" not in node}
        lines = [line.split() for line in document["timeline"]]
        boots |= {line[3]: OLD_DISK_BOOTS for line in lines if line[2::2] == ["disk", "restore"]}
        calm = [line[2:] for line in lines if float(line[1]) > HOUR.calm_from_s + 1]

        for node, times in boots.items():
            power = [line[2] for line in calm if line[:2] == ["power", node]]
            assert power == (["off", "on"] * times or ["on"]), (seed, node)
            seen[f"{times} boots"] += 1
    assert min(seen[f"{times} boots"] for times in (0, 1, OLD_DISK_BOOTS)) > 3


def test_time_goes_on_line_by_line() -> None:
    for seed in SEEDS:
        moments = [step.at_s for step in scenario_of(plan(seed, HOUR)).steps]
        assert moments == sorted(moments), seed


def test_every_cell_of_the_fault_matrix_is_struck_often() -> None:
    lines = [line for seed in SEEDS for line in plan(seed, HOUR)["timeline"]]

    count = Counter(
        {
            begins: sum(f" {begins}" in line for line in lines)
            for strikes in STRIKES.values()
            for begins in strikes
        }
    )

    assert {begins: times for begins, times in count.items() if times < 5} == {}


def test_most_seeds_allow_frequent_fencing_and_some_are_as_in_production() -> None:
    windows = Counter(plan(seed, HOUR)["settings"].get("monitor.blast_window_s") for seed in SEEDS)

    assert set(windows) == {60, None}
    assert windows[60] > windows[None] > 0
