"""Who this node is: node.toml from the enrolment, the kernel's boot id, the machine's DMI UUID."""

from __future__ import annotations

import socket
import tomllib
import uuid
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from evac_common.errors import SettingsRefused
from evac_common.model.identity import Id, Name, node_user
from evac_compute.ports import Identity
from evac_compute.settings import Settings


class NodeFile(BaseModel):
    """The content of node.toml, as `evac node enrol` printed it. Keep it secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node_id: Id
    name: Name
    bus_url: str = Field(pattern=r"^amqps?://", description="Broker, without user and password.")
    user: str
    secret: SecretStr

    def account_url(self) -> str:
        """The broker's URL with this node's account."""
        parts = urlsplit(self.bus_url)
        place = parts.netloc.rpartition("@")[2]
        account = f"{quote(self.user, safe='')}:{quote(self.secret.get_secret_value(), safe='')}"
        return urlunsplit(parts._replace(netloc=f"{account}@{place}"))


def read_node_file(path: Path) -> NodeFile:
    """Raises SettingsRefused naming the file and the field."""
    try:
        found = NodeFile.model_validate(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsRefused(f"{path}: {error}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise SettingsRefused(f"{path}: {where}: {problem['msg']}") from error
    if found.user != node_user(found.node_id):
        raise SettingsRefused(f"{path}: user: must be {node_user(found.node_id)}")
    return found


def read_identity(settings: Settings, node: NodeFile) -> Identity:
    """Raises SettingsRefused when the machine does not say what is needed."""
    return Identity(
        node_id=node.node_id,
        name=node.name,
        boot_id=_read(settings.boot_id_file),
        dmi_uuid=_dmi_uuid(settings.dmi_dir / "product_uuid"),
        hostname=socket.gethostname()[:255],
    )


def _read(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise SettingsRefused(f"{path}: {error.strerror}") from error
    if not text or len(text) > 64:
        raise SettingsRefused(f"{path}: must hold 1 to 64 characters")
    return text


def _dmi_uuid(path: Path) -> str:
    text = _read(path)
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise SettingsRefused(f"{path}: {text!r} is not a UUID") from error
