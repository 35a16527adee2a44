"""Users of the broker: the port that makes them, and its adapters.

A secret is made here, handed to the caller once, and kept by nobody but the broker.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from evac_common.bus.permissions import Permissions, controller_permissions, node_permissions
from evac_common.errors import BusRefused, BusUnavailable
from evac_common.model.identity import CONTROLLER_USERS, node_user

if TYPE_CHECKING:
    import httpx2

    from evac_common.bus.embedded.broker import EmbeddedBroker
    from evac_common.bus.embedded.state import EmbeddedState

_CALL_LIMIT_S: Final = 5.0
_AGAIN_S: Final = (0.2, 0.5, 1.0)  # pauses before asking again


class BrokerAdmin(Protocol):
    """Makes and removes the broker's users. Every call may be repeated.

    Raises BusUnavailable when the broker cannot be reached, BusRefused when it does not obey us.
    """

    async def create_node_user(self, node_id: str) -> str:
        """Make a node's user with exactly a node's permissions and return its secret.

        Repeated, it gives a new secret; the old one is worth nothing from then on.
        """

    async def delete_node_user(self, node_id: str) -> None:
        """Remove a node's user and close its connections. A missing one is no fault."""

    async def setup_controllers(self) -> Mapping[str, str]:
        """Make the users of api, scheduler and monitor; their secrets, by user."""

    def take_commands(self) -> tuple[str, ...]:
        """What a person must run to carry out the calls so far; nothing when they are done."""


def new_secret() -> str:
    """256 random bits, safe in URLs, files and shells."""
    return secrets.token_urlsafe(32)


class ManagementAdmin:
    """Through the HTTP API of RabbitMQ's management plugin, as an administrator of the broker."""

    def __init__(self, client: httpx2.AsyncClient, *, vhost: str = "evac") -> None:
        """`client` has the base URL, the credentials and a time limit; its owner closes it."""
        self._client = client
        self._vhost = quote(vhost, safe="")

    @classmethod
    def connect(cls, url: str, *, user: str, password: str, vhost: str = "evac") -> ManagementAdmin:
        """An admin with a client of its own; `aclose` ends it."""
        import httpx2  # only the api has it installed

        return cls(
            httpx2.AsyncClient(base_url=url, auth=(user, password), timeout=_CALL_LIMIT_S),
            vhost=vhost,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def create_node_user(self, node_id: str) -> str:
        return await self._create(node_user(node_id), node_permissions(node_id))

    async def delete_node_user(self, node_id: str) -> None:
        user = quote(node_user(node_id), safe="")
        await self._call("DELETE", f"/api/users/{user}", missing_is_fine=True)
        # Deleting a user leaves its connections open. RabbitMQ 3.10 answers 500 when one of them
        # ends by itself in the same moment; what is left is closed by asking again.
        for pause_s in _AGAIN_S:
            try:
                await self._call(
                    "DELETE", f"/api/connections/username/{user}", missing_is_fine=True
                )
            except BusUnavailable:
                await asyncio.sleep(pause_s)
            else:
                return
        await self._call("DELETE", f"/api/connections/username/{user}", missing_is_fine=True)

    async def setup_controllers(self) -> Mapping[str, str]:
        await self._call("PUT", f"/api/vhosts/{self._vhost}", {})
        return {
            user: await self._create(user, controller_permissions(user))
            for user in CONTROLLER_USERS
        }

    def take_commands(self) -> tuple[str, ...]:
        return ()

    async def _create(self, user: str, permissions: Permissions) -> str:
        # Permissions last: until then the user can connect to no virtual host.
        secret, name = new_secret(), quote(user, safe="")
        await self._call("PUT", f"/api/users/{name}", {"password": secret, "tags": ""})
        for exchange, topic in permissions.topics.items():
            await self._call(
                "PUT",
                f"/api/topic-permissions/{self._vhost}/{name}",
                {"exchange": exchange, "write": topic.write, "read": topic.read},
            )
        await self._call(
            "PUT",
            f"/api/permissions/{self._vhost}/{name}",
            {
                "configure": permissions.configure,
                "write": permissions.write,
                "read": permissions.read,
            },
        )
        return secret

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, str] | None = None,
        *,
        missing_is_fine: bool = False,
    ) -> None:
        import httpx2  # only the api has it installed

        try:
            answer = await self._client.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise BusUnavailable(
                f"the broker's management API does not answer: {type(error).__name__}"
            ) from error
        if answer.status_code == 404 and missing_is_fine:
            return
        if answer.status_code >= 500:
            raise BusUnavailable("the broker's management API failed", status=answer.status_code)
        if answer.status_code >= 400:
            # The answer may quote what was sent; what was sent may be a secret.
            raise BusRefused(
                "the broker's management API refused",
                status=answer.status_code,
                method=method,
                path=path,
            )


class ManualAdmin:
    """No access to the broker's administration: collects the commands for a person who has it.

    No secret is in a command line: `rabbitmqctl` asks for it.
    """

    def __init__(self, *, vhost: str = "evac") -> None:
        self._vhost = vhost
        self._commands: list[str] = []

    async def create_node_user(self, node_id: str) -> str:
        return self._create(node_user(node_id), node_permissions(node_id))

    async def delete_node_user(self, node_id: str) -> None:
        user = node_user(node_id)
        self._add("delete_user", user)
        self._add("close_all_user_connections", user, "user deleted")

    async def setup_controllers(self) -> Mapping[str, str]:
        self._add("add_vhost", self._vhost)
        return {user: self._create(user, controller_permissions(user)) for user in CONTROLLER_USERS}

    def take_commands(self) -> tuple[str, ...]:
        taken, self._commands = tuple(self._commands), []
        return taken

    def _create(self, user: str, permissions: Permissions) -> str:
        self._add("add_user", user, remark="asks for the password: the secret shown with this")
        for exchange, topic in permissions.topics.items():
            self._add(
                "set_topic_permissions", "-p", self._vhost, user, exchange, topic.write, topic.read
            )
        self._add(
            "set_permissions",
            "-p",
            self._vhost,
            user,
            permissions.configure,
            permissions.write,
            permissions.read,
        )
        return new_secret()

    def _add(self, *words: str, remark: str = "") -> None:
        command = shlex.join(("rabbitmqctl", *words))
        self._commands.append(f"{command}  # {remark}" if remark else command)


class EmbeddedAdmin:
    """On the embedded broker's state: users and permissions, and nobody is asked for a password."""

    def __init__(self, state: EmbeddedState) -> None:
        self._state = state

    async def create_node_user(self, node_id: str) -> str:
        return self._create(node_user(node_id), node_permissions(node_id))

    async def delete_node_user(self, node_id: str) -> None:
        user = node_user(node_id)
        broker = self._broker()
        self._state.users.pop(user, None)
        broker.close_user(user)

    async def setup_controllers(self) -> Mapping[str, str]:
        return {user: self._create(user, controller_permissions(user)) for user in CONTROLLER_USERS}

    def take_commands(self) -> tuple[str, ...]:
        return ()

    def _create(self, user: str, permissions: Permissions) -> str:
        broker = self._broker()
        self._state.users[user] = permissions
        broker.users_changed()
        return f"embedded-{user}"  # the same in every run; nothing ever asks for it

    def _broker(self) -> EmbeddedBroker:
        if self._state.listening is None:
            raise BusUnavailable("the broker does not answer")
        return self._state.listening
