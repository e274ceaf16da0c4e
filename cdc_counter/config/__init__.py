"""Every option there is: one TOML file, a few environment overrides, validated before anything is touched.

The only package that reads the environment. It opens no connection and knows no server: whether a DSN leads
anywhere, or an expression fits its table, is found out by others.
"""

from cdc_counter.config.find import CONFIG_VARIABLE, DEFAULT_FILE, find_config
from cdc_counter.config.gateway import AuthSettings, GatewaySettings
from cdc_counter.config.load import Config, load, load_config
from cdc_counter.config.redaction import redacted
from cdc_counter.config.settings import (
    OutboxSettings,
    PostgresSettings,
    RedisSettings,
    StreamSettings,
    VerifySettings,
)

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_FILE",
    "AuthSettings",
    "Config",
    "GatewaySettings",
    "OutboxSettings",
    "PostgresSettings",
    "RedisSettings",
    "StreamSettings",
    "VerifySettings",
    "find_config",
    "load",
    "load_config",
    "redacted",
]
