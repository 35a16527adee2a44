"""`evac-compute run --config FILE`, `check`, `--version`.

Exit status: 0 ended by a signal, or everything checked is fine; 1 failed; 2 the settings,
node.toml or the machine's identity are refused.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from evac_common.errors import EvacError, SettingsRefused
from evac_common.service import logs
from evac_compute import __version__
from evac_compute.settings import Settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evac-compute", description="Starts and stops the instances of one node."
    )
    parser.add_argument("--version", action="version", version=f"evac-compute {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, about in (
        ("run", "run until SIGTERM; stopping it touches no guest; SIGUSR1: the machine shuts down"),
        ("check", "read settings and identity, ask the hypervisor what it is"),
    ):
        verbs.add_parser(verb, help=about).add_argument(
            "--config", type=Path, metavar="FILE", help="TOML file; EVAC_COMPUTE_* wins over it"
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    try:
        settings = Settings.load(parsed.config)
        if parsed.verb == "check":
            asyncio.run(_check(settings))
            return 0
        logs.configure("compute", settings.log_level)
        from evac_compute.service import run

        asyncio.run(run(settings))
    except SettingsRefused as refused:
        print(f"evac-compute: {refused}", file=sys.stderr)
        return 2
    except EvacError as error:
        print(f"evac-compute: {error}", file=sys.stderr)
        return 1
    return 0


async def _check(settings: Settings) -> None:
    from evac_compute.adapters.host import read_identity, read_node_file
    from evac_compute.ports import HypervisorUnreachable
    from evac_compute.service import open_hypervisor

    identity = read_identity(settings, read_node_file(settings.node_file))
    print(f"node {identity.name} ({identity.node_id}), DMI UUID {identity.dmi_uuid}")
    hypervisor = open_hypervisor(settings)
    connection = asyncio.create_task(hypervisor.run(), name="hypervisor connection")
    try:
        async with asyncio.timeout(settings.call_time_limit_s):
            while True:
                try:
                    facts = await hypervisor.facts()
                    break
                except HypervisorUnreachable as error:
                    why = error
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise why from None
    finally:
        connection.cancel()
        await asyncio.gather(connection, return_exceptions=True)
    print(f"{facts.hypervisor}: {facts.vcpus} CPUs, {facts.memory_mib} MiB")


if __name__ == "__main__":
    sys.exit(main())
