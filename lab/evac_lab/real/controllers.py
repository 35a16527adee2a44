"""A control plane of real processes: api, scheduler and monitor on a broker and a database.

Each is a program of its own under a supervisor, with its own broker user, its own database role and
a folder of its own for its secrets; what they say is in log files of the lab. The same class serves
nodes made of processes and libvirt hosts: `network` names the namespace in which broker, database
and controllers are.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import httpx2

from evac_common.service.secrets import KEY_NAME
from evac_lab.real import supervisor
from evac_lab.real.errors import LabError, NotReady
from evac_lab.real.ports import free_ports
from evac_lab.real.postgresql import PostgreSQL
from evac_lab.real.processes import Daemon, ProcessId, program, until
from evac_lab.real.proxy import Proxy, connector
from evac_lab.real.rabbitmq import RabbitMQ
from evac_lab.real.reach import in_network

SERVICES: Final = ("api", "scheduler", "monitor")
SERVERS: Final = ("broker", "database")
DATABASE: Final = "evac"
RESTART_S: Final = {"default": 5.0, "fast": 1.0}
READY_S: Final = 60.0
_ANSWER_S = 5.0
_RUN_S = 60.0

Settings = Callable[[str], Mapping[str, bool | int | float | str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a control plane lives. Broker and database are given, in the same network."""

    directory: Path
    broker: RabbitMQ
    database: PostgreSQL
    address: str = "127.0.0.1"
    network: str | None = None
    outlives_starter: bool = False


class ControlPlane:
    """`prepare`, once per folder, makes users, tables and secrets; `start` runs the three services.

    `settings` gives a scenario's settings of a service. `restart_s`: how long a supervisor waits.
    """

    def __init__(
        self,
        site: Site,
        *,
        profile: str = "default",
        settings: Settings = lambda _service: {},
        restart_s: float | None = None,
    ) -> None:
        self.site = site
        self.profile = profile
        self.restart_s = RESTART_S[profile] if restart_s is None else restart_s
        self._settings = settings
        site.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        inside = site.address if site.network is None else "127.0.0.1"
        ports = free_ports(len(SERVICES) + 1, address=inside)
        self.api_port = ports[0]
        self._health = dict(zip(SERVICES, ports[1:], strict=True))
        self._daemons = {
            service: Daemon(
                name=service, directory=site.directory, outlives_starter=site.outlives_starter
            )
            for service in SERVICES
        }
        self._gateway: Proxy | None = None
        self._client: httpx2.AsyncClient | None = None
        self._returning: dict[str, asyncio.Task[None]] = {}

    # -- once ----------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Make the database, the roles' passwords, the broker's users, the key and a token.

        Broker and database must run. Raises LabError with what a command said.
        """
        here = self.site.directory
        await self.site.database.create_database(DATABASE)
        passwords = {service: secrets.token_urlsafe(24) for service in SERVICES}
        options: list[str] = []
        for service, password in passwords.items():
            options += [
                "--role-password-file",
                f"{service}={_secret(here / f'{service}.password', password)}",
            ]
            role = self.site.database.url(DATABASE, user=f"evac_{service}", password=password)
            _secret(self.credentials(service) / f"evac_{service}_database_url", role)
        key, users = here / "key", here / "users"
        accounts = ("init", "--secret-key", str(key), "--broker-users", str(users))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._evac_api("migrate", *options, as_owner=True), name="migrate")
            group.create_task(self._evac_api(*accounts, as_owner=True), name="init")
        for service in SERVICES:
            folder = self.credentials(service)
            name = f"evac_{service}_bus_url"
            (users / name).rename(folder / name)
            if service != "scheduler":  # which never sees a BMC's password
                _secret(folder / KEY_NAME, key.read_text())
        _secret(self.credentials("api") / "evac_api_management_url", self._management_url())
        token = await self._evac_api("init", "--token-name", "lab", as_owner=False)
        _secret(here / "token", token.strip().splitlines()[-1])

    def credentials(self, service: str) -> Path:
        """The folder of a service's secrets, as its init system would give it."""
        folder = self.site.directory / "credentials" / service
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def environment(self, service: str) -> dict[str, str]:
        """All settings of a service; what is secret comes from `credentials`."""
        prefix = f"EVAC_{service.upper()}_"
        values: dict[str, bool | int | float | str] = {
            "profile": self.profile,
            "name": f"{service}-1",
            "health_port": self._health[service],
        }
        if service == "api":
            values["listen"] = f"{self.site.address}:{self.api_port}"
            broker = urlsplit(self.site.broker.amqp_url)
            values["nodes_bus_url"] = broker._replace(
                netloc=broker.netloc.rpartition("@")[2]
            ).geturl()
        return {
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "CREDENTIALS_DIRECTORY": str(self.credentials(service)),
            **as_environment(prefix, {**values, **self._settings(service)}),
        }

    # -- running -------------------------------------------------------------------------------

    async def start(self, *, ready_s: float = READY_S) -> None:
        """Start the three services and wait until each says that it is ready."""
        for service in SERVICES:
            self.start_service(service)
        await self.wait_ready(deadline_s=ready_s)

    def start_service(self, service: str) -> None:
        command = supervisor.argv(
            [sys.executable, "-m", f"evac_{service}.cli", "run"],
            pid_file=self._pid_file(service),
            pause_s=self.restart_s,
        )
        self._daemons[service].start(
            command, env=self.environment(service), network=self.site.network
        )

    async def stop_service(self, service: str) -> None:
        """SIGTERM, as an init system would; its supervisor ends, too."""
        await self._daemons[service].terminate()

    def process(self, service: str) -> ProcessId | None:
        """The service itself; None between two lives."""
        return supervisor.supervised(self._pid_file(service))

    def log(self, service: str) -> Path:
        return self._daemons[service].log

    async def kill9(self, name: str) -> None:
        """kill -9 a service, `broker` or `database`; it comes back after the pause."""
        if name in SERVERS:
            await self._kill_server(name)
            return
        process = self.process(name)
        if process is not None:
            process.signal(signal.SIGKILL)
            await until(lambda: not process.is_alive(), deadline_s=_ANSWER_S, what=f"{name} dies")

    async def returned(self) -> None:
        """Wait until every killed broker or database is back. Raises what its start raised."""
        for task in list(self._returning.values()):
            await task

    async def not_ready(self, service: str) -> str:
        """Status and reasons of a service that is not ready; "" when it is."""
        return await readiness(self._health[service], network=self.site.network)

    async def wait_ready(
        self, services: Sequence[str] = SERVICES, *, deadline_s: float = READY_S
    ) -> None:
        """Raises NotReady with the reasons and the ends of the logs."""
        reasons: dict[str, str] = {}

        async def all_ready() -> bool:
            for service in services:
                reasons[service] = await self.not_ready(service)
            return not any(reasons.values())

        try:
            await until(all_ready, deadline_s=deadline_s, what="services ready", every_s=0.1)
        except NotReady:
            logs = {service: self._daemons[service].log_tail() for service in services}
            raise NotReady(f"not ready after {deadline_s:g} s: {reasons}", logs=logs) from None

    async def api(self) -> httpx2.AsyncClient:
        """A client of the api with a token; from outside the network through a gateway."""
        if self._client is None:
            port = self.api_port
            if self.site.network is not None:
                there = connector(self.site.address, port, network=self.site.network)
                self._gateway = Proxy(there)
                await self._gateway.open()
                port = self._gateway.port
            host = self.site.address if self.site.network is None else "127.0.0.1"
            self._client = httpx2.AsyncClient(
                base_url=f"http://{host}:{port}",
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=15.0,
            )
        return self._client

    @property
    def token(self) -> str:
        return (self.site.directory / "token").read_text().strip()

    async def disconnect(self) -> None:
        """Close the client and the gateway; the services go on."""
        for task in self._returning.values():
            task.cancel()
        await asyncio.gather(*self._returning.values(), return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        if self._gateway is not None:
            await self._gateway.close()
            self._gateway = None

    async def discard(self) -> None:
        """End the services at once."""
        await self.disconnect()
        for daemon in self._daemons.values():
            await daemon.kill9()

    # -- inside --------------------------------------------------------------------------------

    def _pid_file(self, service: str) -> Path:
        return self.site.directory / f"{service}.program"

    def _management_url(self) -> str:
        broker = self.site.broker
        account = f"{quote(broker.user, safe='')}:{quote(broker.password, safe='')}"
        return broker.management_url.replace("://", f"://{account}@", 1)

    async def _kill_server(self, name: str) -> None:
        previous = self._returning.pop(name, None)
        if previous is not None:
            await previous
        server = self.site.broker if name == "broker" else self.site.database
        await server.kill9()

        async def come_back() -> None:
            await asyncio.sleep(self.restart_s)
            await server.start()

        self._returning[name] = asyncio.create_task(come_back(), name=f"restart {name}")

    async def _evac_api(self, *words: str, as_owner: bool) -> str:
        """Run a verb of evac-api; with the rights of the database's and the broker's owner."""
        environment = self.environment("api")
        if as_owner:
            environment |= {
                "EVAC_API_DATABASE_URL": self.site.database.url(DATABASE),
                "EVAC_API_BUS_URL": self.site.broker.amqp_url,
                "EVAC_API_MANAGEMENT_URL": self._management_url(),
            }
        return await run_once(
            [sys.executable, "-m", "evac_api.cli", *words],
            environment=environment,
            network=self.site.network,
        )


async def readiness(port: int, *, network: str | None = None) -> str:
    """Status and reasons of the service with this health port, or that it does not answer.

    "" when it is ready.
    """

    def ask() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            body = answer.read().decode().strip()
        except (OSError, http.client.HTTPException):
            return "it does not answer"
        finally:
            connection.close()
        return "" if answer.status == http.HTTPStatus.OK else f"{answer.status}: {body}"

    return await in_network(network, ask)


def as_environment(prefix: str, values: Mapping[str, bool | int | float | str]) -> dict[str, str]:
    """Settings as environment variables."""
    return {f"{prefix}{name.upper()}": _text(value) for name, value in values.items()}


async def run_once(
    argv: Sequence[str], *, environment: Mapping[str, str], network: str | None = None
) -> str:
    """What a command prints. Raises LabError with everything it said when it fails."""
    enter = [program("nsenter"), f"--net=/run/netns/{network}", "--"] if network else []
    process = await asyncio.create_subprocess_exec(
        *enter,
        *argv,
        env={"PATH": os.defpath, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_RUN_S):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NotReady(f"a command did not end within {_RUN_S:g} s", command=list(argv)) from None
    if process.returncode != 0:
        raise LabError(
            "a command failed",
            command=list(argv),
            status=process.returncode,
            said=(output + errors).decode(errors="replace")[-3000:],
        )
    return output.decode()


def _secret(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def _text(value: bool | int | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
