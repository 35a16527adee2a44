"""A private PostgreSQL cluster from Debian's package: own port, socket and data."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from evac_lab.real.errors import CannotRunHere, LabError, NotReady
from evac_lab.real.ports import free_ports
from evac_lab.real.processes import Daemon, ProcessId, program, until

READY_S = 30.0
_BIN = "/usr/lib/postgresql/*/bin/"
_SOCKET_PATH_MAX = 107  # of a Unix socket's address on Linux

_CONFIG = """\
listen_addresses = '{address}'
port = {port}
unix_socket_directories = '{sockets}'
fsync = {fsync}
synchronous_commit = on
full_page_writes = {fsync}
shared_buffers = 32MB
max_connections = 200
password_encryption = scram-sha-256
"""


class PostgreSQL:
    """One cluster with a superuser `postgres` (password login, also over the socket).

    Same data and port for every start. Bound to no event loop. Run by root, it becomes the user
    `postgres`, as initdb refuses root; that user must be able to reach the directory.

    `durable=False` leaves fsync off: what was committed still survives kill9 of the server, but not
    a crash of this machine.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        address: str = "127.0.0.1",
        network: str | None = None,
        port: int | None = None,
        password: str | None = None,
        durable: bool = False,
        outlives_starter: bool = False,
    ) -> None:
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="evac-postgresql-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.address = address
        self.network = network
        self.port = port or (free_ports(1)[0] if network is None else 5432)
        self.user = "postgres"
        self.password = password or secrets.token_urlsafe(16)
        self.durable = durable
        self._system_user = "postgres" if os.geteuid() == 0 else None
        self._data = self.directory / "data"
        self._sockets = self.directory / "s"
        self._server = Daemon(
            name="postgresql", directory=self.directory, outlives_starter=outlives_starter
        )

    @classmethod
    @asynccontextmanager
    async def running(cls, **options: object) -> AsyncIterator[Self]:
        """A cluster for the length of a block; removed with its data afterwards."""
        database = cls(**options)  # type: ignore[arg-type]  # the constructor's own keywords, passed on
        try:
            await database.start()
            yield database
        finally:
            await database.discard()

    @property
    def admin_url(self) -> str:
        """The superuser's address of the database `postgres`, over TCP."""
        return self.url("postgres")

    def url(self, database: str, *, user: str | None = None, password: str | None = None) -> str:
        """The address of a database, for the superuser or for another role."""
        secret = ":".join(
            quote(part, safe="") for part in (user or self.user, password or self.password)
        )
        return f"postgresql://{secret}@{self.address}:{self.port}/{quote(database, safe='')}"

    def socket_url(self, database: str) -> str:
        """As `url`, over the Unix socket: works from outside the server's network namespace."""
        secret = f"{self.user}:{quote(self.password, safe='')}"
        sockets = quote(str(self._sockets), safe="")
        return f"postgresql://{secret}@/{quote(database, safe='')}?host={sockets}&port={self.port}"

    @property
    def pid(self) -> int | None:
        process = self._server.process
        return None if process is None else process.pid

    @property
    def log(self) -> Path:
        return self._server.log

    def is_running(self) -> bool:
        return self._server.is_running()

    async def start(self, *, ready_s: float = READY_S) -> None:
        """Create the cluster at the first start, run it, wait until a query is answered.

        Raises NotReady with the end of the log; nothing is left running then.
        """
        if not (self._data / "PG_VERSION").exists():
            await self._create()
        self._data.joinpath("postmaster.pid").unlink(missing_ok=True)  # of a killed server
        self._server.start(
            [program(_BIN + "postgres"), "-D", str(self._data)],
            env={"LANG": "C.UTF-8", "HOME": str(self.directory)},
            user=self._system_user,
            network=self.network,
        )
        try:
            await self.wait_ready(deadline_s=ready_s)
        except BaseException:
            self._server.kill9_now()
            raise

    async def is_ready(self) -> bool:
        """Whether the superuser can log in and run a query."""
        try:
            connection = await self._connect("postgres")
        except psycopg.OperationalError:
            return False
        async with connection:
            await connection.execute("SELECT 1")
        return True

    async def wait_ready(self, *, deadline_s: float = READY_S) -> None:
        """Raises NotReady at the deadline, or as soon as the process ends."""

        async def ready_or_dead() -> bool:
            return not self.is_running() or await self.is_ready()

        await until(ready_or_dead, deadline_s=deadline_s, what=f"PostgreSQL in {self.directory}")
        if not self.is_running():
            raise NotReady("PostgreSQL ended while starting", log=self._server.log_tail())

    async def create_database(self, name: str, *, template: str | None = None) -> str:
        """A new database, empty or a copy; its address. Copying needs nobody connected to it."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        await self.execute(statement)
        return self.url(name)

    async def drop_database(self, name: str) -> None:
        """Remove a database, throwing out whoever is connected; none of that name is fine."""
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        await self.execute(drop.format(sql.Identifier(name)))

    async def execute(self, statement: sql.Composed, *, database: str = "postgres") -> None:
        """One statement as the superuser, in autocommit."""
        async with await self._connect(database) as connection:
            await connection.execute(statement)

    async def kill9(self) -> None:
        """SIGKILL to the postmaster and its children at once."""
        children = _children(self.pid)
        await self._server.kill9()
        for child in children:  # each is its own session, and would notice by itself only later
            child.signal(signal.SIGKILL)

    async def restart(self) -> None:
        """kill9 if it runs, then start on the same data and port (crash recovery runs)."""
        await self.kill9()
        await self.start()

    async def stop(self) -> None:
        """Orderly: open transactions are rolled back, clients are told, data is kept."""
        process = self._server.process
        if process is not None:
            process.signal(signal.SIGINT)  # "fast" shutdown; SIGTERM would wait for the clients
            await until(lambda: not self.is_running(), deadline_s=READY_S, what="PostgreSQL stops")

    async def discard(self) -> None:
        """End it at once; a temporary directory goes too."""
        await self.kill9()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def _connect(self, database: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(
            self.socket_url(database), autocommit=True, connect_timeout=5
        )

    async def _create(self) -> None:
        self._check_reachable()
        if len(str(self._sockets / f".s.PGSQL.{self.port}")) > _SOCKET_PATH_MAX:
            raise LabError("the directory's path is too long for a socket", path=self.directory)
        for folder in (self._data, self._sockets):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._give(folder)
        password_file = self.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        self._give(password_file)
        await self._initdb(password_file)
        password_file.unlink()
        settings = _CONFIG.format(
            address=self.address,
            port=self.port,
            sockets=self._sockets,
            fsync="on" if self.durable else "off",
        )
        with self._data.joinpath("postgresql.conf").open("a") as configuration:
            configuration.write(settings)
        access = "local all all scram-sha-256\nhost all all all scram-sha-256\n"
        self._data.joinpath("pg_hba.conf").write_text(access)

    async def _initdb(self, password_file: Path) -> None:
        # In the server's network, where whoever takes a lab down looks for what belongs to it.
        enter = (
            [program("nsenter"), f"--net=/run/netns/{self.network}", "--"] if self.network else []
        )
        as_user = (
            [program("setpriv"), "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
            if self._system_user
            else []
        )
        process = await asyncio.create_subprocess_exec(
            *enter,
            *as_user,
            program(_BIN + "initdb"),
            f"--pgdata={self._data}",
            f"--username={self.user}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            cwd="/",
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise LabError("initdb failed", output=output.decode(errors="replace"))

    def _check_reachable(self) -> None:
        """Every folder above must let the server's user through, else initdb fails obscurely."""
        if self._system_user is None:
            return
        self.directory.chmod(0o711)
        shut = [str(folder) for folder in self.directory.parents if not folder.stat().st_mode & 1]
        if shut:
            raise CannotRunHere(
                "PostgreSQL runs as the user postgres, who cannot pass these folders", folders=shut
            )

    def _give(self, path: Path) -> None:
        if self._system_user is not None:
            entry = pwd.getpwnam(self._system_user)
            os.chown(path, entry.pw_uid, entry.pw_gid)


def _children(pid: int | None) -> tuple[ProcessId, ...]:
    if pid is None:
        return ()
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return ()
    return tuple(found for child in listed if (found := ProcessId.of(int(child))) is not None)
