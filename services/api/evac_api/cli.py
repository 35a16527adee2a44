"""`evac-api run | migrate | init | restored | check [--config FILE]`, `--version`.

Exit status: 0 done, 1 refused, 2 the settings are refused, 3 the database cannot be used, 4 the
broker cannot be reached.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from evac_api import __version__
from evac_api.settings import Settings
from evac_common.errors import BusUnavailable, EvacError, SettingsRefused, StoreUnavailable
from evac_common.service import logs
from evac_common.service.clock import SystemClock
from evac_common.service.secrets import SecretBox
from evac_common.store import regress
from evac_common.store.migrations import migrate
from evac_common.store.roles import ROLES, set_password

BROKER_LIMIT_S = 5.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evac-api", description="The door of evac: checks and stores what people want."
    )
    parser.add_argument("--version", action="version", version=f"evac-api {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file; EVAC_API_* wins over it"
    )
    verbs.add_parser("run", parents=[config], help="run until SIGTERM")
    verbs.add_parser(
        "check", parents=[config], help="read the settings, reach the database and the broker"
    )
    migrating = verbs.add_parser(
        "migrate", parents=[config], help="create the tables, or bring them to this version"
    )
    migrating.add_argument(
        "--role-password-file",
        action="append",
        default=[],
        metavar="SERVICE=FILE",
        help="give the PostgreSQL role of api, scheduler or monitor the password in FILE",
    )
    restored = verbs.add_parser(
        "restored",
        parents=[config],
        help="say that a backup was restored: nothing starts until the nodes have told what runs",
    )
    restored.add_argument("--reason", required=True, help="which backup, for the record")
    init = verbs.add_parser(
        "init", parents=[config], help="make the first token, keys and broker users"
    )
    init.add_argument("--token-name", metavar="NAME", help="make an API token and print it once")
    init.add_argument("--secret-key", type=Path, metavar="FILE", help="make the key of BMC secrets")
    init.add_argument(
        "--broker-users",
        type=Path,
        metavar="DIRECTORY",
        help="make the controllers' broker users and write their addresses as credentials",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    try:
        settings = Settings.load(parsed.config)
        return _carry_out(parsed, settings)
    except SettingsRefused as error:
        return _failed(error, 2)
    except StoreUnavailable as error:
        return _failed(error, 3)
    except BusUnavailable as error:
        return _failed(error, 4)
    except EvacError as error:
        return _failed(error, 1)
    except OSError as error:
        print(f"evac-api: {error}", file=sys.stderr)
        return 1


def _failed(error: EvacError, code: int) -> int:
    print(f"evac-api: {error}", file=sys.stderr)
    return code


def _carry_out(parsed: argparse.Namespace, settings: Settings) -> int:
    match parsed.verb:
        case "run":
            logs.configure("api", settings.log_level)
            from evac_api.service import run  # the other verbs need no HTTP server

            asyncio.run(run(settings))
        case "check":
            asyncio.run(_check(settings))
        case "migrate":
            _migrate(settings, parsed.role_password_file)
        case "restored":
            asyncio.run(_restored(settings, parsed.reason))
        case "init":
            asyncio.run(_init(settings, parsed.token_name, parsed.secret_key, parsed.broker_users))
    return 0


async def _check(settings: Settings) -> None:
    from evac_api.service import open_admin, open_store
    from evac_common.bus.rabbitmq import RabbitBus

    key = settings.secret_key_path()
    if key is not None:
        SecretBox.from_file(key)
    open_admin(settings)
    store = open_store(settings)
    try:
        await store.ping()
    finally:
        await store.close()
    bus = RabbitBus(settings.bus_url.get_secret_value(), clock=SystemClock())
    running = asyncio.create_task(bus.run(), name="bus")
    try:
        async with asyncio.timeout(BROKER_LIMIT_S):
            await bus.wait_connected()
    except TimeoutError as error:
        raise BusUnavailable(f"the broker is away: {bus.health().detail}") from error
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    print("settings, database and broker are fine")


def _migrate(settings: Settings, passwords: Sequence[str]) -> None:
    url = settings.database_url.get_secret_value()
    given = dict(_role_password(text) for text in passwords)
    migrate(url)
    for service, password in given.items():
        set_password(url, service, password)
    print("the database is at this version")


def _role_password(text: str) -> tuple[str, str]:
    service, sign, file = text.partition("=")
    if not sign or service not in ROLES:
        raise SettingsRefused(
            f"--role-password-file {text}: must be SERVICE=FILE with one of {', '.join(ROLES)}"
        )
    return service, Path(file).read_text("utf-8").strip()


async def _restored(settings: Settings, reason: str) -> None:
    """A wish like any other, but it needs no api that runs: it holds from its commit on."""
    from evac_api.adapters.cluster import StoredCluster
    from evac_api.ports import Caller
    from evac_api.service import open_store

    store = open_store(settings)
    try:
        caller = Caller(actor="evac-api restored")
        await StoredCluster(store).wish(caller, regress.RESTORED, reason, {})
    finally:
        await store.close()
    print("nothing is started or cut off until every node has shown what it runs")


async def _init(
    settings: Settings, token_name: str | None, secret_key: Path | None, users: Path | None
) -> None:
    if token_name is None and secret_key is None and users is None:
        raise SettingsRefused("nothing to do: give --token-name, --secret-key or --broker-users")
    if secret_key is not None:
        _write_private(secret_key, SecretBox.new_key() + "\n")
        print(f"{secret_key}: new secret key", file=sys.stderr)
    if users is not None:
        await _broker_users(settings, users)
    if token_name is not None:
        from evac_api.adapters.access import StoredTokens
        from evac_api.service import open_store

        store = open_store(settings)
        try:
            token = await StoredTokens(store).issue(token_name)
        finally:
            await store.close()
        print("this token is shown once; keep it:", file=sys.stderr)
        print(token)


async def _broker_users(settings: Settings, directory: Path) -> None:
    """One credential file per controller, named as its settings look for it."""
    from evac_api.service import open_admin

    admin = open_admin(settings)
    _write_accounts(settings, directory, await admin.setup_controllers())
    commands = admin.take_commands()
    if commands:
        print("run at the broker (the password is in the address):", file=sys.stderr)
        for command in commands:
            print(f"  {command}", file=sys.stderr)


def _write_accounts(settings: Settings, directory: Path, secrets: Mapping[str, str]) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    parts = urlsplit(settings.bus_url.get_secret_value())
    host = parts.netloc.rpartition("@")[2]
    for user, secret in secrets.items():
        netloc = f"{user}:{quote(secret, safe='')}@{host}"
        path = directory / f"{user.replace('-', '_')}_bus_url"
        path.unlink(missing_ok=True)  # a repeated call has given the user a new secret
        _write_private(path, urlunsplit(parts._replace(netloc=netloc)))
        print(f"{path}: broker account of {user}", file=sys.stderr)


def _write_private(path: Path, text: str) -> None:
    """Raises OSError, also when the file exists: a key that is in use must not be overwritten."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
