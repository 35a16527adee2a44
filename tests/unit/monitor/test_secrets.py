"""Secrets at rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac_common.errors import SettingsRefused
from evac_common.service.secrets import SecretBox, SecretUnreadable


def test_what_one_service_encrypts_another_with_the_same_key_file_reads(tmp_path: Path) -> None:
    file = tmp_path / "evac_secret_key"
    file.write_text(SecretBox.new_key() + "\n")

    token = SecretBox.from_file(file).encrypt("cälvin")

    assert SecretBox.from_file(file).decrypt(token) == "cälvin"
    assert b"lvin" not in token


def test_an_old_key_still_decrypts_beside_the_new_one(tmp_path: Path) -> None:
    old, new = SecretBox.new_key(), SecretBox.new_key()
    token = SecretBox([old]).encrypt("calvin")

    assert SecretBox([new, old]).decrypt(token) == "calvin"


def test_another_key_is_an_error_that_carries_no_secret() -> None:
    key = SecretBox.new_key()
    token = SecretBox([key]).encrypt("calvin")

    with pytest.raises(SecretUnreadable) as refused:
        SecretBox([SecretBox.new_key()]).decrypt(token)

    assert "calvin" not in str(refused.value)
    assert key not in repr(SecretBox([key]))


@pytest.mark.parametrize("content", ["", "not a key", "ä" * 44])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "evac_secret_key"
    file.write_text(content)

    with pytest.raises(SettingsRefused, match="key"):
        SecretBox.from_file(file)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="nowhere"):
        SecretBox.from_file(tmp_path / "nowhere")
