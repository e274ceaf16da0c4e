"""Decides which configuration file is meant: the option, then the environment, then the working directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cdc_counter.errors import ConfigError
from cdc_counter.resources import data_folder

CONFIG_VARIABLE: Final = "CDC_COUNTER_CONFIG"
DEFAULT_FILE: Final = "cdc-counter.toml"


def find_config(option: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the configuration file to read; raises ConfigError when it does not exist."""
    if option is not None:
        return _existing(option, "--config")
    if named := environ.get(CONFIG_VARIABLE):
        return _existing(Path(named), f"${CONFIG_VARIABLE}")
    return _existing(Path(DEFAULT_FILE), None)


def _existing(path: Path, named_by: str | None) -> Path:
    if path.is_file():
        return path
    kind = "is not a file" if path.exists() else "does not exist"
    origin = f", named by {named_by}," if named_by else " in the working directory"
    raise ConfigError(
        f"configuration file {str(path)!r}{origin} {kind}",
        hint=f"copy the commented default, 'cp {data_folder('config') / 'default.toml'} {DEFAULT_FILE}', "
        f"and edit it; or name a file with --config FILE or ${CONFIG_VARIABLE}",
    )
