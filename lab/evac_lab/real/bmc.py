"""One BMC as a process of its own: `python -m evac_lab.real.bmc ...`.

It speaks IPMI, or Redfish over TLS with `--certificate`, and switches either a lab host:

    python -m evac_lab.real.bmc --port 6231 --uuid UUID --password-file F host DIRECTORY

or, without root and on loopback, a process group:

    python -m evac_lab.real.bmc --port 6231 --uuid UUID --password-file F group PID_FILE -- COMMAND

`--faults FILE` makes it a bad BMC while there is a word in the file: see `bmc_switch`. It prints
`listening` when it does.
"""

from __future__ import annotations

import argparse
import functools
import uuid
from pathlib import Path

from evac_lab.real import bmc_ipmi, bmc_redfish
from evac_lab.real.bmc_switch import Switch
from evac_lab.real.power import GroupPower, HostPower, Power


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    power: Power = (
        HostPower(options.directory)
        if options.machine == "host"
        else GroupPower(pid_file=options.pid_file, command=options.command)
    )
    switch = Switch(power, options.uuid, options.faults)
    serve = bmc_ipmi.serve
    if options.certificate is not None:
        serve = functools.partial(bmc_redfish.serve, certificate=options.certificate)
    serve(
        switch,
        user=options.user,
        password=options.password_file.read_text().strip(),
        address=options.address,
        port=options.port,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evac_lab.real.bmc", description=__doc__)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--uuid", type=uuid.UUID, required=True)
    parser.add_argument("--user", default="admin")
    # In a file: arguments are visible to everybody on the machine.
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--certificate", type=Path, help="Redfish: certificate and key, PEM.")
    parser.add_argument("--faults", type=Path)
    machines = parser.add_subparsers(dest="machine", required=True)
    host = machines.add_parser("host")
    host.add_argument("directory", type=Path)
    group = machines.add_parser("group")
    group.add_argument("pid_file", type=Path)
    group.add_argument("command", nargs="+")
    return parser


if __name__ == "__main__":
    main()
