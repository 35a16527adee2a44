"""Fingerprints of a few small seeds: the same in every process, directory and hash seed.

    python -m evac_lab.hunt.fingerprints             # print them
    python -m evac_lab.hunt.fingerprints --write FILE

The file is checked in, so a change that alters any run is seen, and said, where it is made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from evac_lab.hunt.plan import Mix, Size
from evac_lab.hunt.run import Job, quiet, run_one

SIZE: Final = Size(nodes=4, instances=8, hours=0.15)
JOBS: Final = tuple(
    Job(seed=seed, size=SIZE, mix=mix)
    for seed, mix in enumerate((Mix.EVERYTHING, Mix.DEATHS, Mix.BUS), 1)
)


def python() -> str:
    """The interpreter's minor version: asyncio itself may take other steps in another one."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def fingerprints() -> Mapping[str, str]:
    """By seed."""
    quiet()
    found = {}
    for job in JOBS:
        lived = run_one(job, with_lines=True).lived
        found[f"{job.seed} {job.mix}"] = lived.fingerprint
    return found


def main(argv: Sequence[str]) -> int:
    match argv:
        case []:
            print(json.dumps(fingerprints()))
        case ["--write", file]:
            path = Path(file)
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            known[python()] = fingerprints()
            text = json.dumps(known, indent=2, sort_keys=True)
            path.write_text(text + "\n", encoding="utf-8")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
