"""A private RabbitMQ node from Debian's package: own ports, cookie, epmd and data."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from evac_lab.real.errors import LabError, NotReady
from evac_lab.real.ports import free_ports
from evac_lab.real.processes import Daemon, program, until
from evac_lab.real.reach import amqp_answers, http_status

READY_S = 60.0  # 4 s on an idle machine; a busy one with two cores may need ten times that
_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
_CTL = "/usr/lib/rabbitmq/bin/rabbitmqctl"

_CONFIG = """\
listeners.tcp.1 = {address}:{amqp}
management.tcp.ip = {address}
management.tcp.port = {management}
default_vhost = {vhost}
default_user = {user}
default_pass = {password}
default_user_tags.administrator = true
loopback_users = none
log.console = false
log.file = {log}
log.file.level = info
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
total_memory_available_override_value = 4GB
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitPorts:
    amqp: int
    management: int
    distribution: int
    epmd: int

    @classmethod
    def free(cls, address: str) -> RabbitPorts:
        amqp, management, distribution, epmd = free_ports(4, address=address)
        return cls(amqp=amqp, management=management, distribution=distribution, epmd=epmd)


class RabbitMQ:
    """One node with vhost `evac`, the management API and one administrator.

    Same data and ports for every start, so a client's address stays valid over kill9 and restart.
    Bound to no event loop: may be started in one and used or ended in another.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        address: str = "127.0.0.1",
        network: str | None = None,
        ports: RabbitPorts | None = None,
        password: str | None = None,
        outlives_starter: bool = False,
    ) -> None:
        """`directory`: empty, or one that an earlier node used; None: a temporary one.

        `network`: name of a network namespace (as `ip netns` lists it) in which `address` is.
        """
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="evac-rabbitmq-"))
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.address = address
        self.network = network
        self.ports = ports or RabbitPorts.free(address if network is None else "127.0.0.1")
        self.vhost = "evac"
        self.user = "admin"
        self.password = password or secrets.token_urlsafe(16)
        self.node_name = f"evac-{self.ports.amqp}@localhost"
        keep = outlives_starter
        self._epmd = Daemon(name="epmd", directory=self.directory, outlives_starter=keep)
        self._node = Daemon(name="rabbitmq", directory=self.directory, outlives_starter=keep)

    @classmethod
    @asynccontextmanager
    async def running(cls, **options: object) -> AsyncIterator[Self]:
        """A node for the length of a block; removed with its data afterwards."""
        broker = cls(**options)  # type: ignore[arg-type]  # the constructor's own keywords, passed on
        try:
            await broker.start()
            yield broker
        finally:
            await broker.discard()

    @property
    def amqp_url(self) -> str:
        return self.amqp_url_for(self.user, self.password)

    def amqp_url_for(self, user: str, password: str) -> str:
        """The address for another user of this broker."""
        secret = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"amqp://{secret}@{self.address}:{self.ports.amqp}/{quote(self.vhost, safe='')}"

    @property
    def management_url(self) -> str:
        """Base address of the HTTP API, without credentials: `<this>/api/whoami`."""
        return f"http://{self.address}:{self.ports.management}"

    @property
    def pid(self) -> int | None:
        """The broker's process while it runs: for SIGSTOP and the like."""
        process = self._node.process
        return None if process is None else process.pid

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def is_running(self) -> bool:
        return self._node.is_running()

    async def start(self, *, ready_s: float = READY_S) -> None:
        """Start the node on its data, and wait until AMQP and the management API answer.

        Raises NotReady with the end of the log; nothing is left running then.
        """
        self._write_configuration()
        if not self._epmd.is_running():
            self._epmd.start(
                [program("epmd"), "-port", str(self.ports.epmd)],
                env={"ERL_EPMD_ADDRESS": self.address},
                network=self.network,
            )
        self._node.start([program(_SERVER)], env=self._environment(), network=self.network)
        try:
            await self.wait_ready(deadline_s=ready_s)
        except BaseException:
            self._node.kill9_now()
            self._epmd.kill9_now()
            raise

    async def is_ready(self) -> bool:
        """Whether it speaks AMQP and the administrator may use the HTTP API."""
        if not await amqp_answers(self.address, self.ports.amqp, network=self.network):
            return False
        status = await http_status(
            f"/api/vhosts/{quote(self.vhost, safe='')}",
            address=self.address,
            port=self.ports.management,
            user=self.user,
            password=self.password,
            network=self.network,
        )
        return status == 200

    async def wait_ready(self, *, deadline_s: float = READY_S) -> None:
        """Raises NotReady at the deadline, or as soon as the process ends."""

        async def ready_or_dead() -> bool:
            return not self.is_running() or await self.is_ready()

        await until(ready_or_dead, deadline_s=deadline_s, what=self._story(), every_s=0.1)
        if not self.is_running():
            raise NotReady("RabbitMQ ended while starting", log=self._story())

    async def kill9(self) -> None:
        """As when the power goes: no goodbye to clients; durable data stays, but see `flush`."""
        await self._node.kill9()

    async def restart(self) -> None:
        """kill9 if it runs, then start on the same data and ports."""
        await self.kill9()
        await self.start()

    async def stop(self) -> None:
        """Orderly shutdown (2 to 3 s), data kept; also the own epmd."""
        await self._node.terminate()
        await self._epmd.kill9()

    async def discard(self) -> None:
        """End it at once; a temporary directory goes too."""
        await self._node.kill9()
        await self._epmd.kill9()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def ctl(self, *arguments: str, deadline_s: float = READY_S) -> str:
        """What `rabbitmqctl ARGUMENTS` prints. Starts an Erlang VM: about 1 s. Raises LabError."""
        enter = (
            [program("nsenter"), f"--net=/run/netns/{self.network}", "--"] if self.network else []
        )
        process = await asyncio.create_subprocess_exec(
            *enter,
            program(_CTL),
            "--node",
            self.node_name,
            *arguments,
            env=self._environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(deadline_s):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise NotReady("rabbitmqctl did not end", arguments=arguments) from None
        if process.returncode != 0:
            raise LabError("rabbitmqctl failed", arguments=arguments, output=output.decode())
        return output.decode()

    async def flush(self) -> None:
        """Write out what RabbitMQ knows of its quorum queues.

        RabbitMQ 3.10 does so by itself some seconds late: a quorum queue that is younger when the
        node is killed comes back without a leader, for good, and without its confirmed messages.
        """
        await self.ctl("eval", "[ok = dets:sync(T) || T <- dets:all()].")

    async def set_alarm(self, *, on: bool) -> None:
        """The memory alarm: while on, the broker blocks every connection that publishes."""
        await self.ctl("set_vm_memory_high_watermark", "absolute", "1kB" if on else "1GB")

    def _write_configuration(self) -> None:
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)
        configuration = self.directory / "rabbitmq.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            _CONFIG.format(
                address=self.address,
                amqp=self.ports.amqp,
                management=self.ports.management,
                vhost=self.vhost,
                user=self.user,
                password=self.password,
                log=self.log,
            )
        )
        (self.directory / "enabled_plugins").write_text("[rabbitmq_management].\n")
        # Empty, so that /etc/rabbitmq of this machine has no say.
        (self.directory / "env.conf").touch()
        (self.directory / "conf.d").mkdir(exist_ok=True)

    def _environment(self) -> dict[str, str]:
        here = self.directory
        listen = "{" + self.address.replace(".", ",") + "}"
        return {
            "HOME": str(here),
            "LANG": "C.UTF-8",
            "PATH": os.defpath + ":/usr/sbin:/sbin",
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "ERL_EPMD_ADDRESS": self.address,
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_CONF_ENV_FILE": str(here / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(here / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here),
            "RABBITMQ_PID_FILE": str(here / "server.pid"),
            # One scheduler thread that sleeps when idle: many nodes share few cores here.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
                f" -start_epmd false -kernel inet_dist_use_interface {listen}"
            ),
            # The start script then becomes the Erlang VM instead of waiting for it as a parent,
            # so that the process we know is the one to kill.
            "detached": "yes",
        }

    def _story(self) -> str:
        parts = [f"RabbitMQ in {self.directory}", self._node.log_tail()]
        if self.log.exists():
            parts.append(self.log.read_text(errors="replace")[-1500:])
        return "\n".join(parts)
