"""The sections of the configuration file that describe servers and the stream: defaults and constraints.

Only shapes and ranges are judged here. The defaults are repeated, with comments, in config/default.toml.
"""

import re
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cdc_counter.core.durability import Policy

_POSTGRES_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
_DATABASE_NUMBER: Final = re.compile(r"/?[0-9]*\Z", re.ASCII)
_HASH_TAG: Final = re.compile(r"[^{}]*(\{[^{}]+\}[^{}]*)?\Z")
_REDIS_PORT: Final = 6379
_REDIS_SCHEMES: Final = ("redis", "rediss", "unix")


class Section(BaseModel):
    """One table of the file: frozen, no unknown keys, no silent conversions ("5" is not the number 5)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        populate_by_name=True,
        hide_input_in_errors=True,  # a DSN in a traceback would show its password
    )


def _postgres_name(value: str) -> str:
    # Replication commands take no parameters, so names that could need quoting are not accepted at all.
    if _POSTGRES_NAME.match(value) is None:
        raise ValueError("must be 1 to 63 lower-case letters, digits and _, not starting with a digit")
    if value.startswith("pg_"):
        raise ValueError("must not start with pg_, which PostgreSQL keeps for itself")
    return value


def _own_schema(value: str) -> str:
    if value in {"public", "information_schema"}:
        raise ValueError("must be a schema of its own: 'cdc-counter drop' removes it with everything in it")
    return value


def _dsn(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty; leave the key out to use libpq's PG* variables")
    if "://" in value and not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("must start with postgresql://, or be in libpq's key=value form")
    if "://" not in value and "=" not in value:
        raise ValueError("must be a postgresql:// URL or libpq's key=value form, such as 'host=db dbname=shop'")
    return value


def _redis_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in _REDIS_SCHEMES:
        raise ValueError("must start with redis://, rediss:// (TLS) or unix://")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("must have a port between 1 and 65535") from None
    if parts.scheme == "unix":
        return value
    if not parts.hostname or port == 0:
        raise ValueError("must name a host, such as redis://localhost:6379/0")
    if not _DATABASE_NUMBER.match(parts.path):
        raise ValueError("must end in a database number, such as /0")
    return value


def _host_port(value: str) -> str:
    try:
        host, port = _address(value)
    except ValueError:
        host, port = "", 0
    if not host or not port:
        raise ValueError("must be a host and a port, such as '10.0.0.5:26379'")
    return value


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or 0


def _prefix(value: str) -> str:
    if not value or any(character.isspace() or not character.isprintable() for character in value):
        raise ValueError("must be text without spaces and control characters")
    # Redis hashes what stands between the first { and the next }: counter and scope must stay outside.
    if not _HASH_TAG.match(value):
        raise ValueError("must hold at most one hash tag, such as '{cdc}'")
    return value


def _failover(value: object) -> object:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError('must be "auto", true or false')


PostgresName = Annotated[str, AfterValidator(_postgres_name)]
HostPort = Annotated[str, AfterValidator(_host_port)]
Dsn = Annotated[str, AfterValidator(_dsn)]


class PostgresSettings(Section):
    """`[postgres]`: the database, the names of our objects in it, and how patient to be."""

    dsn: Annotated[Dsn | None, Field(repr=False)] = None
    """Where the counted tables are; None leaves it all to libpq's PG* variables."""
    admin_dsn: Annotated[Dsn | None, Field(repr=False)] = None
    """The role that installs, changes, mends and drops; None: the same as `dsn`."""
    # BaseModel has an attribute `schema` of its own.
    schema_name: Annotated[PostgresName, AfterValidator(_own_schema)] = Field(default="cdc_counter", alias="schema")
    slot: PostgresName = "cdc_counter"
    publication: PostgresName = "cdc_counter"
    failover: Annotated[bool | Literal["auto"], BeforeValidator(_failover)] = "auto"
    """Whether the slot is a failover slot (PostgreSQL 17+); auto: where the server synchronises slots."""
    lock_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 100
    connect_timeout: Annotated[int, Field(ge=2, le=600)] = 10
    """Seconds. libpq takes 1 as 2."""
    wal_sender_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 15
    fuse_wal_mb: Annotated[int, Field(ge=0, le=1 << 30)] = 16_384
    """WAL that the slot may make the server keep before it is dropped; 0: without a limit."""
    fuse_hours: Annotated[float, Field(ge=0, le=87_600)] = 0.0
    """How long the slot may stand still while it makes the server keep WAL; 0: without a limit."""
    inspection_seconds: Annotated[float, Field(ge=0.5, le=3600)] = 10.0
    """How late a hole in capture may be seen. A look is seven queries of the catalog."""

    @property
    def conninfo(self) -> str:
        """What the stream and all readers connect with; empty text leaves it to libpq's own variables."""
        return self.dsn or ""

    @property
    def admin_conninfo(self) -> str:
        """What installs, changes, mends and drops connects with."""
        return self.admin_dsn or self.conninfo


class RedisSettings(Section):
    """`[redis]`: the server and the names of our keys in it."""

    url: Annotated[str, AfterValidator(_redis_url), Field(repr=False)] = "redis://localhost:6379/0"
    sentinels: Annotated[tuple[HostPort, ...], Field(strict=False)] = ()
    """Who knows the master; then the host of `url` counts for nothing, the rest of it for the master."""
    sentinel_master: str | None = None
    sentinel_password: Annotated[str | None, Field(repr=False)] = None
    cluster: bool = False
    """Whether the server is a node of a Redis Cluster: the node that serves the prefix is found through it."""
    cluster_nodes: Annotated[tuple[HostPort, ...], Field(strict=False)] = ()
    """Further nodes to ask, for when the one of `url` is down."""
    prefix: Annotated[str, AfterValidator(_prefix)] = "cdc"
    feed_length: Annotated[int, Field(ge=1000, le=10_000_000)] = 20_000
    """Changed values kept in the feed: how far a gateway may fall behind before it reads its rooms again."""
    confirm: Annotated[Policy, Field(strict=False)] = Policy.APPLIED
    """When a commit that Redis has applied may be confirmed to the slot, and so leave PostgreSQL's WAL."""
    confirm_replicas: Annotated[int, Field(ge=0, le=100)] = 1
    """Replicas that must have it (`replicated`) or have it on disk (`fsynced`, where 0 is allowed)."""
    confirm_timeout_seconds: Annotated[float, Field(ge=0.1, le=4)] = 2.0
    """For replicas and disks. Above the second that appendfsync everysec takes; below the client's timeout of 5 s."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.confirm is Policy.REPLICATED and self.confirm_replicas == 0:
            raise ValueError('confirm "replicated" needs confirm_replicas of at least 1')
        if bool(self.sentinels) != bool(self.sentinel_master):
            raise ValueError("sentinels and sentinel_master need each other")
        if self.sentinels and self.cluster:
            raise ValueError("sentinels and cluster exclude each other")
        if self.cluster_nodes and not self.cluster:
            raise ValueError("cluster_nodes need cluster = true")
        parts = urlsplit(self.url)
        if (self.sentinels or self.cluster) and parts.scheme == "unix":
            raise ValueError("url must be redis:// or rediss:// for sentinels and clusters")
        if self.cluster and "{" not in self.prefix:
            raise ValueError(f"a cluster needs a hash tag in prefix, such as '{{{self.prefix}}}'")
        if self.cluster and parts.path.strip("/0"):
            raise ValueError("a cluster has database 0 only")
        return self

    @property
    def sentinel_addresses(self) -> list[tuple[str, int]]:
        """Whom to ask for the master."""
        return [_address(text) for text in self.sentinels]

    @property
    def cluster_addresses(self) -> list[tuple[str, int]]:
        """Whom to ask which node serves us."""
        parts = urlsplit(self.url)
        return [(parts.hostname or "", parts.port or _REDIS_PORT), *map(_address, self.cluster_nodes)]


class StreamSettings(Section):
    """`[stream]`: how the consumer batches and reports, and what it does when tallies can't be continued."""

    max_batch_keys: Annotated[int, Field(ge=1, le=100_000)] = 5000
    """What one script call may cost: 1 a bucket, 3 more a hash; bounds how long Redis is busy with it."""
    heartbeat_seconds: Annotated[float, Field(gt=0, le=300)] = 5.0
    status_seconds: Annotated[float, Field(gt=0, le=5)] = 1.0
    """Below half of core.status.STALE_REPORT_SECONDS, so that one late report is no alarm."""
    rebuild: bool = True
    """Whether `run` counts again by itself when Redis or the slot was lost; else it ends with exit code 6."""


class OutboxSettings(Section):
    """`[outbox]`: how long applied deltas are kept as the ledger."""

    keep_hours: Annotated[int, Field(ge=1, le=6)] = 3
    """At most 6 of the ring's 8 partitions: the current one and its successor are never pruned."""
    prune_seconds: Annotated[float, Field(gt=0, le=3600)] = 300.0


class VerifySettings(Section):
    """`[verify]`: continuous verifying, beside the stream."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Of the time, at most; 0 turns it off. A counter whose recount takes long is compared less often."""
    interval_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """At least so long between two verifications of one counter."""
    repair: bool = False
    """Whether drift is subtracted at once, or left to be looked at."""
