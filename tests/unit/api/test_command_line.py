"""`evac-api` as an operator runs it."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from pathlib import Path

import pytest

from evac_api.cli import main
from evac_api.settings import Settings
from evac_common.service.secrets import SecretBox
from tests.unit.api.ports import free_port


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "api.toml"
    broker = f"amqp://evac-api:secret@127.0.0.1:{free_port()}/evac"
    path.write_text(f'database_url = "sqlite:///{tmp_path}/evac.db"\nbus_url = "{broker}"\n')
    return path


def test_migrate_and_the_first_token(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    not_migrated = main(["init", "--config", str(config), "--token-name", "admin"])
    assert main(["migrate", "--config", str(config)]) == 0
    capsys.readouterr()
    assert main(["init", "--config", str(config), "--token-name", "admin"]) == 0
    token = capsys.readouterr().out.strip()
    again = main(["init", "--config", str(config), "--token-name", "admin"])

    assert not_migrated == 3
    assert token.startswith("evac_")
    assert token.encode() not in (config.parent / "evac.db").read_bytes()
    assert again == 1
    assert "there is a token named admin" in capsys.readouterr().err


def test_restored_is_a_wish_that_needs_no_running_api(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = config.parent / "evac.db"
    assert main(["restored", "--config", str(config), "--reason", "too early"]) == 3
    assert main(["migrate", "--config", str(config)]) == 0

    assert main(["restored", "--config", str(config), "--reason", "Monday's dump"]) == 0

    with contextlib.closing(sqlite3.connect(database)) as connection:
        wishes = connection.execute("SELECT verb, actor, reason FROM cluster_wish").fetchall()
    assert wishes == [("restored", "evac-api restored", "Monday's dump")]
    assert "nothing is started" in capsys.readouterr().out


def test_the_secret_key_is_made_once_for_its_owner_only(config: Path, tmp_path: Path) -> None:
    key = tmp_path / "evac_secret_key"

    assert main(["init", "--config", str(config), "--secret-key", str(key)]) == 0
    made = key.read_bytes()
    assert main(["init", "--config", str(config), "--secret-key", str(key)]) == 1

    assert key.read_bytes() == made
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    box = SecretBox.from_file(key)
    assert box.decrypt(box.encrypt("calvin")) == "calvin"


def test_broker_users_without_management_are_commands_for_a_person(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts = tmp_path / "accounts"

    assert main(["init", "--config", str(config), "--broker-users", str(accounts)]) == 0

    files = sorted(path.name for path in accounts.iterdir())
    assert files == ["evac_api_bus_url", "evac_monitor_bus_url", "evac_scheduler_bus_url"]
    url = (accounts / "evac_monitor_bus_url").read_text()
    assert url.startswith("amqp://evac-monitor:")
    assert url.endswith("/evac")
    told = capsys.readouterr().err
    assert "rabbitmqctl add_user evac-monitor" in told
    assert url.split(":")[2].split("@")[0] not in told


@pytest.mark.slow
def test_check_tells_what_is_away(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["migrate", "--config", str(config)])
    assert main(["check", "--config", str(config)]) == 4
    assert "the broker is away" in capsys.readouterr().err

    config.write_text('database_url = "sqlite:////nonexistent/evac.db"\n')
    assert main(["check", "--config", str(config)]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('listen = "here"\n', "listen"),
        ("settle_s = 0\n", "settle_s"),
        ('colour = "red"\n', "colour"),
        ('database_url = "mysql://x/y"\n', "mysql"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    config: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    config.write_text(text)

    assert main(["check", "--config", str(config)]) == 2
    assert message in capsys.readouterr().err


def test_nodes_are_never_told_a_controllers_password() -> None:
    settings = Settings.load(
        bus_url="amqps://evac-api:secret@broker.example:5671/evac?heartbeat=10"
    )

    assert settings.bus_url_of_nodes() == "amqps://broker.example:5671/evac?heartbeat=10"
