"""Judges what is known about a server: pure functions from facts to findings with their exact remedy.

Nothing is read here. A rule says what is wrong with which value, and the line that mends it.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from psycopg.sql import Identifier, Literal

from cdc_counter.config import PostgresSettings
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.postgres.server_facts import OpenTransaction, ServerFacts, TableFact

OLDEST_MAJOR: Final = 15
"""On 14 the server refuses a start position older than the confirmed one, which this product relies on."""

_LOSSLESS_MINOR: Final = {17: 6, 16: 10, 15: 14}
"""Older minor releases can lose rows in logical decoding when a publication changes while transactions run (fixed in
May 2025) or take unbounded memory over the fix (August 2025)."""

_PLUGIN_LIST_MINOR: Final = {18: 6, 17: 11, 16: 15}
"""First minor releases with output_plugin_libraries: before, a REPLICATION role can load any library."""

_FAILOVER_MAJOR: Final = 17


def judge_server(facts: ServerFacts, settings: PostgresSettings) -> Iterator[Finding]:
    """Yield what is wrong with the server and the role's rights on the database."""
    yield from _version(facts)
    yield from _writable(facts)
    yield from _wal(facts, settings)
    yield from _slots(facts)
    yield from _failover(facts, settings)
    yield from _rights(facts, settings)
    if facts.encoding == "SQL_ASCII":
        yield _error(
            f"database {facts.database!r} has encoding SQL_ASCII, so its text has no defined characters",
            f"create a database with ENCODING 'UTF8' and move the data there with pg_dump -E UTF8 {facts.database}",
        )


def judge_tables(tables: Sequence[TableFact], role: str) -> Iterator[Finding]:
    """Yield the tables that can't be counted by this role."""
    for table in tables:
        if not table.owned:
            yield _error(
                f"table {table.name} belongs to {table.owner!r}, and triggers need its owner",
                f"GRANT {_name(table.owner)} TO {_name(role)};  -- or set postgres.admin_dsn to the owner's role",
            )
        if table.rows_hidden:
            yield _error(
                f"table {table.name} has FORCE ROW LEVEL SECURITY, which hides rows from {role!r} when it counts",
                f"ALTER ROLE {_name(role)} BYPASSRLS;",
            )


def judge_open_transactions(transactions: Sequence[OpenTransaction]) -> Iterator[Finding]:
    """Yield the transactions that creating the slot will wait for."""
    for transaction in transactions:
        age = f"open for {transaction.seconds:.0f} s"
        if transaction.gid is not None:
            yield _warning(
                f"prepared transaction {transaction.gid!r} in database {transaction.database!r} is {age}; "
                "creating the slot waits for it",
                f"ROLLBACK PREPARED {_literal(transaction.gid)};  -- or COMMIT PREPARED, in that database",
            )
        else:
            yield _warning(
                f"pid {transaction.pid} ({transaction.role} in {transaction.database}, {transaction.state}) has a "
                f"transaction {age}; creating the slot waits for it",
                f"SELECT pg_terminate_backend({transaction.pid});",
            )


def _version(facts: ServerFacts) -> Iterator[Finding]:
    if facts.major < OLDEST_MAJOR:
        yield _error(
            f"PostgreSQL {facts.version} is too old: {OLDEST_MAJOR} is the first whose slots accept a start position "
            "that they have passed already, as every reconnection may need",
            f"upgrade to PostgreSQL {OLDEST_MAJOR} or later",
        )
        return
    lossless = _LOSSLESS_MINOR.get(facts.major)
    if lossless is not None and facts.minor < lossless:
        yield _warning(
            f"PostgreSQL {facts.version} can lose rows in logical decoding when a publication is changed",
            f"upgrade to {facts.major}.{lossless} or later",
        )
    needed = _PLUGIN_LIST_MINOR.get(facts.major)
    listed = facts.plugins_listed if facts.plugins_listed is not None else facts.minor >= (needed or 0)
    if not listed:
        yield _warning(
            f"PostgreSQL {facts.version} lets any role with REPLICATION load any library (CVE-2026-6471)",
            f"upgrade to {facts.major}.{needed} or later"
            if needed
            else "upgrade to a release with output_plugin_libraries; until then guard the role's password",
        )


def _writable(facts: ServerFacts) -> Iterator[Finding]:
    if facts.in_recovery:
        yield _error(
            "the server is a standby (in recovery): triggers and the slot belong on the primary",
            "let postgres.dsn name the primary, or add target_session_attrs=read-write to it",
        )
    elif facts.read_only:
        yield _error(
            f"transactions of {facts.role!r} in {facts.database!r} are read-only by default",
            f"ALTER ROLE {_name(facts.role)} SET default_transaction_read_only = off;",
        )


def _wal(facts: ServerFacts, settings: PostgresSettings) -> Iterator[Finding]:
    if facts.wal_level != "logical":
        yield _error(
            f"wal_level is {facts.wal_level}, not logical",
            "set rds.logical_replication = 1 in the parameter group, then reboot the instance"
            if facts.rds_role
            else "ALTER SYSTEM SET wal_level = 'logical';  -- then restart the server",
        )
    if facts.max_slot_wal_keep_size == "-1":
        fused = settings.fuse_wal_mb or settings.fuse_hours
        yield _warning(
            "max_slot_wal_keep_size is unlimited: "
            + (
                "the fuse (postgres.fuse_wal_mb) acts only while 'run' runs; a consumer that never does again"
                if fused
                else "and the fuse (postgres.fuse_wal_mb) is off: a consumer that stays away"
            )
            + " fills the server's disk with WAL",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();  -- what the disk can spare",
        )
    if facts.idle_slot_timeout not in {None, "0"}:
        yield _warning(
            f"idle_replication_slot_timeout is {facts.idle_slot_timeout}: a consumer away for longer loses the slot",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
        )
    if not facts.fsync:
        yield _warning(
            "fsync is off: a crash of the machine can take back commits that were counted",
            "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();",
        )


def _slots(facts: ServerFacts) -> Iterator[Finding]:
    if facts.slot_exists or facts.used_slots < facts.max_slots:
        return
    unused = ", ".join(facts.inactive_slots)
    drop = f"SELECT pg_drop_replication_slot({_literal(facts.inactive_slots[0])});" if facts.inactive_slots else ""
    raise_limit = f"ALTER SYSTEM SET max_replication_slots = {facts.max_slots + 1};  -- then restart the server"
    yield _error(
        f"no replication slot is free: {facts.used_slots} of {facts.max_slots} in use"
        + (f", not active: {unused}" if unused else ""),
        f"{raise_limit}; or, if nobody needs it: {drop}" if drop else raise_limit,
    )


def _failover(facts: ServerFacts, settings: PostgresSettings) -> Iterator[Finding]:
    if facts.major < _FAILOVER_MAJOR:
        if settings.failover is True:
            yield _error(
                f"postgres.failover = true needs PostgreSQL {_FAILOVER_MAJOR}, the server is {facts.version}",
                "failover = false    # in [postgres]; after a failover run 'cdc-counter init --reseed'",
            )
    elif settings.failover is not False and facts.physical_slots and not facts.synchronized_standby_slots:
        slots = ",".join(facts.physical_slots)
        yield _warning(
            "synchronized_standby_slots is empty: the consumer can be ahead of a standby, and after a failover to it "
            "the tallies hold commits that are gone",
            f"ALTER SYSTEM SET synchronized_standby_slots = {_literal(slots)}; SELECT pg_reload_conf();",
        )


def _rights(facts: ServerFacts, settings: PostgresSettings) -> Iterator[Finding]:
    if facts.schema_owner is not None:
        yield _error(
            f"schema {settings.schema_name!r} belongs to {facts.schema_owner!r}, not to {facts.role!r}",
            f"ALTER SCHEMA {_name(settings.schema_name)} OWNER TO {_name(facts.role)};  -- or another postgres.schema",
        )
    if not facts.may_create:
        yield _error(
            f"{facts.role!r} may not create a schema in database {facts.database!r}",
            f"GRANT CREATE ON DATABASE {_name(facts.database)} TO {_name(facts.role)};",
        )


def _name(name: str) -> str:
    return Identifier(name).as_string()


def _literal(text: str) -> str:
    return Literal(text).as_string()


def _error(title: str, remedy: str) -> Finding:
    return Finding(Severity.ERROR, title, remedy)


def _warning(title: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, title, remedy)
