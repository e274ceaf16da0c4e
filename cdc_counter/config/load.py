"""Reads a configuration file into values: syntax, environment overrides, validation, all complaints."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from cdc_counter.config.complaints import complaints, place, shown_value
from cdc_counter.config.counters import CounterEntry, repeated
from cdc_counter.config.find import find_config
from cdc_counter.config.gateway import GatewaySettings
from cdc_counter.config.settings import (
    OutboxSettings,
    PostgresSettings,
    RedisSettings,
    Section,
    StreamSettings,
    VerifySettings,
)
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.errors import ConfigError

OVERRIDES: Final[Mapping[str, tuple[str, ...]]] = {
    "CDC_COUNTER_POSTGRES_DSN": ("postgres", "dsn"),
    "CDC_COUNTER_POSTGRES_ADMIN_DSN": ("postgres", "admin_dsn"),
    "CDC_COUNTER_REDIS_URL": ("redis", "url"),
    "CDC_COUNTER_REDIS_SENTINEL_PASSWORD": ("redis", "sentinel_password"),
    "CDC_COUNTER_JWT_SECRET": ("gateway", "auth", "secret"),
}
"""Environment variables that override one key each; an empty variable counts as not set."""


class ConfigFile(Section):
    """The whole file as written."""

    postgres: PostgresSettings = Field(default_factory=PostgresSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    outbox: OutboxSettings = Field(default_factory=OutboxSettings)
    verify: VerifySettings = Field(default_factory=VerifySettings)
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    counter: Annotated[tuple[CounterEntry, ...], Field(strict=False)] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """Everything one deployment is told. `path` is where it was read from, for messages only."""

    path: Path
    postgres: PostgresSettings
    redis: RedisSettings
    stream: StreamSettings
    outbox: OutboxSettings
    verify: VerifySettings
    gateway: GatewaySettings
    counters: tuple[CounterDefinition, ...]

    def require_counters(self) -> tuple[CounterDefinition, ...]:
        """Return the counters; raises ConfigError when none is declared."""
        if not self.counters:
            raise ConfigError(
                f"{self.path}: no counter is declared",
                hint="add a [[counter]] with a name and a table; config/default.toml has examples",
            )
        return self.counters


def load(option: Path | None = None) -> Config:
    """Find this process's configuration and read it: the only place that looks at the real environment."""
    return load_config(find_config(option, os.environ), os.environ)


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Return the configuration in `path`, overridden from `environ`; ConfigError has a line per problem."""
    data = _parse(path)
    origins = _override(data, environ)
    try:
        file = ConfigFile.model_validate(data)
    except ValidationError as error:
        found = complaints(error, data, ConfigFile)
    else:
        found = []
    found += _repetitions(data)
    if found:
        raise ConfigError("\n".join(_located(line, path, origins) for line in found))
    return Config(
        path=path,
        postgres=file.postgres,
        redis=file.redis,
        stream=file.stream,
        outbox=file.outbox,
        verify=file.verify,
        gateway=file.gateway,
        counters=tuple(entry.definition for entry in file.counter),
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}", hint="make the file readable") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", hint="save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        # tomllib's own words already end in "(at line 3, column 7)".
        reason = str(error)[:1].lower() + str(error)[1:]
        hint = "correct that line; see https://toml.io"
        if "overwrite" in reason or "declare" in reason:
            # The commonest slip: a second [counter] where TOML's lists are written with two brackets.
            hint = "say every section and key once, and write two brackets for each [[counter]]"
        raise ConfigError(f"{path}: not valid TOML: {reason}", hint=hint) from error


def _override(data: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Put the overrides into `data`; return which variable each overridden place came from."""
    origins = {}
    for variable, location in OVERRIDES.items():
        value = environ.get(variable)
        if not value:
            continue
        table = data
        for step in location[:-1]:
            table = table.setdefault(step, {})
            if not isinstance(table, dict):
                break  # the file is wrong here already, and validation will say so
        else:
            table[location[-1]] = value
            origins[".".join(location)] = variable
    return origins


def _repetitions(data: Mapping[str, Any]) -> list[str]:
    entries = data.get("counter")
    if not isinstance(entries, list):
        return []
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    return [
        f"{place(('counter', index, 'name'), data)} = {shown_value('name', names[index])}: "
        "is taken by an earlier counter; names must differ"
        for index in repeated(names)
    ]


def _located(line: str, path: Path, origins: Mapping[str, str]) -> str:
    for key, variable in origins.items():
        if line.startswith(f"{key} = "):
            return f"${variable}{line.removeprefix(key)}"
    return f"{path}: {line}"
