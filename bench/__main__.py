"""`python -m bench [codec] [planning] [simulation]`: all of them, or those named."""

from __future__ import annotations

import os
import platform
import sys

from bench import codec, planning, simulation

BENCHES = {"codec": codec.run, "planning": planning.run, "simulation": simulation.run}


def main(names: list[str]) -> int:
    if unknown := sorted(set(names) - BENCHES.keys()):
        print(
            f"unknown bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr
        )
        return 2
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {platform.machine()}")
    for name in names or BENCHES:
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
