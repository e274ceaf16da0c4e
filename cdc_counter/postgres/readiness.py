"""Looks at a PostgreSQL server before anything is created on it, and says what is missing with its exact remedy.

Reads only. The REPLICATION right, pg_hba.conf, free senders and poolers are not guessed from catalogs: a replication
connection is opened as `run` will open it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from cdc_counter.config import PostgresSettings, redacted
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.postgres.pooler import Path, find_path
from cdc_counter.postgres.readiness_rules import judge_open_transactions, judge_server, judge_tables
from cdc_counter.postgres.server_facts import (
    ServerFacts,
    may_replicate,
    read_open_transactions,
    read_server,
    read_tables,
)

_STRAIGHT: Final = "dsn = ...    # in [postgres]: the server's own host and port (usually 5432), not the pooler's"


async def check_postgres(
    conn: AsyncConnection, settings: PostgresSettings, definitions: Sequence[CounterDefinition]
) -> list[Finding]:
    """Return what is wrong, errors first. `conn` is in autocommit mode and has the role that will install.

    Raises psycopg.Error when the connection itself fails.
    """
    # In a database without an encoding psycopg would give bytes; any encoding will do for the facts.
    await conn.execute("SET client_encoding TO 'UTF8'")
    facts = await read_server(conn, settings.slot, settings.schema_name)
    findings = list(judge_server(facts, settings))
    findings += judge_tables(await read_tables(conn, [definition.table for definition in definitions]), facts.role)
    if not facts.slot_exists:
        findings += judge_open_transactions(await read_open_transactions(conn))
    if await may_replicate(conn, facts.role) is False:
        findings.append(_lacks_replication(facts.role, facts))
    findings += await _check_path(conn, facts, settings)
    if not facts.in_recovery:
        findings += await _check_stream(conn, facts, settings)
    return in_order(findings)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with errors before warnings, each once."""
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.severity is not Severity.ERROR)


async def _check_path(conn: AsyncConnection, facts: ServerFacts, settings: PostgresSettings) -> list[Finding]:
    match await find_path(conn, facts.backend_pid, settings.admin_conninfo):
        case Path.TRANSACTIONS:
            where = f"{conn.info.host}:{conn.info.port}"
            return [
                Finding(
                    Severity.ERROR,
                    f"the connection to {where} goes through a pooler that changes servers between transactions",
                    _STRAIGHT,
                )
            ]
        case Path.SESSIONS:
            return [
                Finding(
                    Severity.WARNING,
                    f"the connection to {conn.info.host}:{conn.info.port} goes through a proxy or session pooler",
                    _STRAIGHT,
                )
            ]
        case Path.DIRECT:
            return []


async def _check_stream(conn: AsyncConnection, facts: ServerFacts, settings: PostgresSettings) -> list[Finding]:
    try:
        stream = await AsyncConnection.connect(
            settings.conninfo,
            autocommit=True,
            row_factory=dict_row,
            # Typed as text by psycopg, and passed on to libpq.
            replication="database",
            client_encoding="UTF8",
            connect_timeout=settings.connect_timeout,
        )
    except psycopg.OperationalError as error:
        return [await _stream_refused(conn, error, facts)]
    async with stream:
        identity = await (await stream.execute("IDENTIFY_SYSTEM")).fetchone() or {}
    there = (identity.get("systemid"), identity.get("dbname"))
    if there == (facts.system_identifier, facts.database):
        return []
    return [
        Finding(
            Severity.ERROR,
            f"postgres.dsn and postgres.admin_dsn lead to different databases: system {there[0]}, database "
            f"{there[1]!r}, and system {facts.system_identifier}, database {facts.database!r}",
            "admin_dsn = ...    # in [postgres]: the same host, port and dbname as dsn",
        )
    ]


async def _stream_refused(conn: AsyncConnection, error: psycopg.OperationalError, facts: ServerFacts) -> Finding:
    said = " ".join(redacted(str(error)).split())
    role = error.pgconn.user.decode() if error.pgconn is not None else facts.role
    if await may_replicate(conn, role) is False:
        return _lacks_replication(role, facts)
    if "startup parameter" in said and "replication" in said:
        return Finding(Severity.ERROR, f"a pooler lets no replication connection through: {said}", _STRAIGHT)
    if "max_wal_senders" in said or facts.used_senders >= facts.max_senders:
        return Finding(
            Severity.ERROR,
            f"no WAL sender is free: {facts.used_senders} of {facts.max_senders} in use",
            f"ALTER SYSTEM SET max_wal_senders = {facts.max_senders + 1};  -- then restart the server",
        )
    if "pg_hba.conf" in said:
        return Finding(
            Severity.ERROR,
            f"pg_hba.conf refuses the replication connection of {role!r}: {said}",
            f"hostssl {facts.database} {role} ADDRESS scram-sha-256    # in pg_hba.conf, then SELECT pg_reload_conf();",
        )
    return Finding(
        Severity.ERROR,
        f"no replication connection can be opened: {said}",
        "dsn = ...    # in [postgres]: psql with 'replication=database' and IDENTIFY_SYSTEM must succeed with it",
    )


def _lacks_replication(role: str, facts: ServerFacts) -> Finding:
    name = psycopg.sql.Identifier(role).as_string()
    grant = f"GRANT rds_replication TO {name};" if facts.rds_role else f"ALTER ROLE {name} REPLICATION;"
    return Finding(Severity.ERROR, f"role {role!r} lacks the REPLICATION right", grant)
