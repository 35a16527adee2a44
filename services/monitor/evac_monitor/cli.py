"""`evac-monitor run --config FILE`, `check`, `--version`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from evac_common.errors import SettingsRefused
from evac_common.service import logs
from evac_monitor import __version__
from evac_monitor.settings import Settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evac-monitor", description="Decides which nodes live, and proves the dead ones dead."
    )
    parser.add_argument("--version", action="version", version=f"evac-monitor {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, about in (
        ("run", "run until SIGTERM"),
        ("check", "read the settings and say whether they fit together"),
    ):
        verbs.add_parser(verb, help=about).add_argument(
            "--config", type=Path, metavar="FILE", help="TOML file; EVAC_MONITOR_* wins over it"
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 ended by a signal or settings are fine, 2 settings are refused."""
    parsed = _parser().parse_args(arguments)
    try:
        settings = Settings.load(parsed.config)
    except SettingsRefused as refused:
        print(f"evac-monitor: {refused}", file=sys.stderr)
        return 2
    if parsed.verb == "check":
        print("the settings fit together")
        return 0
    logs.configure("monitor", settings.log_level)
    from evac_monitor.service import run  # the broker's client is not needed for `check`

    asyncio.run(run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
