"""Search for every mutant from seed 0 on, print the table, write record and page anew.

    python -m tests.mutants                  # all of them; an hour or so of two cores
    python -m tests.mutants no-gen no-cas    # these; the others' results stay as recorded
    python -m tests.mutants --page           # the page from the record, without a search

Exit status 1 when a mutant was not found, or the unchanged product broke something.
"""

from __future__ import annotations

import argparse

from evac_lab.hunt.run import cores
from tests.mutants import page, record
from tests.mutants.hunting import Run
from tests.mutants.mutants import BY_NAME, MUTANTS
from tests.mutants.search import Job, Search, compare, search
from tests.mutants.seeds import SEEDS


def _say(job: Job, run: Run) -> None:
    what = "" if job.what == "mutant" else f" ({job.what})"
    shown = str(run.found) if run.found else run.failed or "nothing"
    bites = ", ".join(f"{name} {count} times" for name, count in run.bites.items())
    print(
        f"{job.name}{what} seed {job.seed}: {shown} [{bites}; {run.virtual_s:.0f} s of virtual"
        f" time in {run.cpu_s:.0f} s]",
        flush=True,
    )


def _table(searches: list[Search]) -> bool:
    """Print what was found; False when something was not."""
    print("\nrule | seeds needed | invariant broken | virtual hours")
    for each in searches:
        hours = sum(run.virtual_s for run in each.tried()) / 3600
        hit = each.hit
        found = f"{hit.seed + 1} | {hit.found.invariant}" if hit and hit.found else "NOT FOUND |"
        print(f"{each.mutant.name} | {found} | {hours:.2f}")
    return all(each.hit is not None for each in searches)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BY_NAME], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--page", action="store_true", help="write the page from the record")
    asked = parser.parse_args()
    if not asked.page:
        mutants = [BY_NAME[name] for name in asked.names] or list(MUTANTS)
        searches = list(search(mutants, limit=asked.seeds, workers=asked.workers, on_run=_say))
        record.save(record.record_of(searches, {}, record.load()))  # the rest takes long
        compared = compare(searches, workers=asked.workers, on_run=_say)
        complete = _table(searches)
        now = record.record_of(searches, compared, record.load())
        record.save(now)
        clean = not any(run.found for job, run in compared.items() if job.what != "mutant")
    page.FILE.write_text(page.page(record.load()), encoding="utf-8")
    return 0 if asked.page or (complete and clean) else 1
