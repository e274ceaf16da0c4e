"""config/default.toml against the models: every option in it, every default right, and nothing else."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cdc_counter.config import (
    AuthSettings,
    GatewaySettings,
    OutboxSettings,
    PostgresSettings,
    RedisSettings,
    StreamSettings,
    load_config,
)
from cdc_counter.config.counters import CounterEntry
from cdc_counter.resources import data_folder

DEFAULT = data_folder("config") / "default.toml"

SECTIONS: dict[str, type[BaseModel]] = {
    "postgres": PostgresSettings,
    "redis": RedisSettings,
    "stream": StreamSettings,
    "outbox": OutboxSettings,
    "gateway": GatewaySettings,
}


def uncommented() -> dict[str, Any]:
    """Read the file with its commented-out options switched on."""
    text = re.sub(r"^# (?=\[|[a-z_]+ = )", "", DEFAULT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return tomllib.loads(text)


def keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.default for name, field in model.model_fields.items()}


def test_file_as_it_is_means_the_defaults(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.touch()
    shipped, bare = load_config(DEFAULT, {}), load_config(empty, {})
    assert (shipped.postgres, shipped.redis, shipped.stream) == (bare.postgres, bare.redis, bare.stream)
    assert (shipped.outbox, shipped.gateway, shipped.counters) == (bare.outbox, bare.gateway, bare.counters)


@pytest.mark.parametrize("section", SECTIONS)
def test_section_has_every_option_and_no_other(section: str) -> None:
    assert set(uncommented()[section]) == keys(SECTIONS[section])


def test_auth_section_has_every_option_and_no_other() -> None:
    assert set(uncommented()["gateway"]["auth"]) == keys(AuthSettings)


def test_counter_examples_show_every_key_and_no_other() -> None:
    shown = {key for entry in uncommented()["counter"] for key in entry}
    assert shown == keys(CounterEntry)


@pytest.mark.parametrize("section", SECTIONS)
def test_options_that_are_on_have_their_default(section: str) -> None:
    expected = defaults(SECTIONS[section])
    for key, value in tomllib.loads(DEFAULT.read_text(encoding="utf-8"))[section].items():
        shown = tuple(value) if isinstance(value, list) else value
        assert (key, shown) == (key, expected[key])


def test_commented_auth_options_with_a_default_show_it() -> None:
    shown = uncommented()["gateway"]["auth"]
    for key, value in defaults(AuthSettings).items():
        if value is not None:
            assert (key, shown[key]) == (key, list(value) if isinstance(value, tuple) else value)


def test_examples_switched_on_are_a_valid_file(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\[|[a-z_]+ = )", "", DEFAULT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"^public_key = .*$", "", text, flags=re.MULTILINE)
    text = text.replace("at least 32 random bytes", "0123456789abcdef0123456789abcdef")
    path = tmp_path / "on.toml"
    path.write_text(text, encoding="utf-8")
    assert [counter.name for counter in load_config(path, {}).counters] == ["open_by_channel", "amount_by_shop"]


def test_every_option_is_explained() -> None:
    """An option stands under a comment, alone or in a group that shares one."""
    paragraphs = DEFAULT.read_text(encoding="utf-8").split("\n\n")
    for paragraph in paragraphs:
        options = [line for line in paragraph.splitlines() if re.match(r"(# )?[a-z_]+ = ", line)]
        if options:
            assert "#" in paragraph.partition(options[0])[0] or "#" in options[0]
