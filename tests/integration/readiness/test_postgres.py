"""Every check against a real server that has the fault, and none against one that has not."""

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection, conninfo

from cdc_counter.config import PostgresSettings
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.embedded import PostgresServer
from cdc_counter.embedded.child import free_port
from cdc_counter.postgres.readiness import check_postgres
from cdc_counter.postgres.readiness_rules import judge_open_transactions
from cdc_counter.postgres.server_facts import read_open_transactions
from tests.integration.readiness.conftest import Bouncer
from tests.rig.eventually import eventually

# What the rig's own server is warned about: it is set up for speed, and 15 for want of a newer minor release.
OF_THE_RIG = ("fsync is off", "max_slot_wal_keep_size is unlimited", "CVE-2026-6471", "can lose rows")


async def found(dsn: str, settings: PostgresSettings | None = None, tables: Sequence[str] = ("t",)) -> list[Finding]:
    """Check as the role of `dsn`, and leave out what the rig's server is always warned about."""
    definitions = [CounterDefinition(name=f"c{index}", table=table) for index, table in enumerate(tables)]
    async with await AsyncConnection.connect(dsn, autocommit=True) as conn:
        findings = await check_postgres(conn, settings or PostgresSettings(dsn=dsn), definitions)
    return [finding for finding in findings if not any(part in finding.title for part in OF_THE_RIG)]


async def the_one(dsn: str, settings: PostgresSettings | None = None, tables: Sequence[str] = ("t",)) -> Finding:
    findings = await found(dsn, settings, tables)
    assert len(findings) == 1, findings
    return findings[0]


@asynccontextmanager
async def role(conn: AsyncConnection, dsn: str, attributes: str = "") -> AsyncIterator[tuple[str, str]]:
    """Create a login role of this database's own and give its name and dsn."""
    name = f"role_of_{conn.info.dbname}"
    await conn.execute(f'CREATE ROLE "{name}" LOGIN {attributes}')
    await conn.execute(f'GRANT CREATE ON DATABASE "{conn.info.dbname}" TO "{name}"')
    try:
        yield name, conninfo.make_conninfo(dsn, user=name)
    finally:
        await conn.execute("RESET ROLE")
        await conn.execute(f'REASSIGN OWNED BY "{name}" TO CURRENT_USER')
        await conn.execute(f'DROP OWNED BY "{name}"')
        await conn.execute(f'DROP ROLE "{name}"')


async def test_ready_server_has_no_errors_and_the_warnings_it_deserves(database: str, conn: AsyncConnection) -> None:
    findings = await check_postgres(conn, PostgresSettings(dsn=database), [])
    assert [finding.severity for finding in findings] == [Severity.WARNING] * len(findings)
    titles = " ".join(finding.title for finding in findings)
    assert "fsync is off" in titles
    assert "max_slot_wal_keep_size is unlimited" in titles
    assert await found(database) == []


async def test_wal_level_is_named_with_the_command_that_changes_it(narrow: PostgresServer) -> None:
    findings = await found(narrow.dsn())
    [error] = [finding for finding in findings if finding.severity is Severity.ERROR]
    assert error.title == "wal_level is replica, not logical"
    assert error.remedy.startswith("ALTER SYSTEM SET wal_level = 'logical';")


async def test_idle_slot_timeout_is_warned_about(narrow: PostgresServer) -> None:
    titles = [finding.title for finding in await found(narrow.dsn()) if finding.severity is Severity.WARNING]
    assert titles == ["idle_replication_slot_timeout is 1h: a consumer away for longer loses the slot"]


async def test_limited_slot_size_is_not_warned_about(narrow: PostgresServer) -> None:
    async with await AsyncConnection.connect(narrow.dsn(), autocommit=True) as conn:
        findings = await check_postgres(conn, PostgresSettings(dsn=narrow.dsn()), [])
    assert not any("max_slot_wal_keep_size" in finding.title for finding in findings)


async def test_used_up_slots_are_counted_and_an_idle_one_is_named(narrow: PostgresServer) -> None:
    async with await AsyncConnection.connect(narrow.dsn(), autocommit=True) as conn:
        await conn.execute("SELECT pg_create_physical_replication_slot('forgotten')")
        try:
            titles = {finding.title: finding.remedy for finding in await found(narrow.dsn())}
        finally:
            await conn.execute("SELECT pg_drop_replication_slot('forgotten')")
    remedy = titles["no replication slot is free: 1 of 1 in use, not active: forgotten"]
    assert "max_replication_slots = 2;" in remedy
    assert "SELECT pg_drop_replication_slot('forgotten');" in remedy


async def test_used_up_senders_are_counted(narrow: PostgresServer) -> None:
    async with await AsyncConnection.connect(narrow.dsn(), autocommit=True, replication="true"):
        titles = {finding.title: finding.remedy for finding in await found(narrow.dsn())}
    assert "max_wal_senders = 2;" in titles["no WAL sender is free: 1 of 1 in use"]


async def test_role_without_replication_is_told_the_grant(database: str, conn: AsyncConnection) -> None:
    async with role(conn, database) as (name, dsn):
        finding = await the_one(database, PostgresSettings(dsn=dsn, admin_dsn=database))
        assert finding.title == f"role {name!r} lacks the REPLICATION right"
        await conn.execute(finding.remedy)
        assert await found(database, PostgresSettings(dsn=dsn, admin_dsn=database)) == []


async def test_role_that_installs_needs_replication_as_well(database: str, conn: AsyncConnection) -> None:
    async with role(conn, database) as (name, dsn):
        finding = await the_one(dsn, PostgresSettings(dsn=database, admin_dsn=dsn))
        assert finding.title == f"role {name!r} lacks the REPLICATION right"
        assert await the_one(dsn) == finding


async def test_role_that_may_not_create_a_schema_is_told_the_grant(database: str, conn: AsyncConnection) -> None:
    async with role(conn, database, "REPLICATION") as (name, dsn):
        await conn.execute(f'REVOKE CREATE ON DATABASE "{conn.info.dbname}" FROM "{name}"')
        finding = await the_one(dsn)
        assert finding.title == f"{name!r} may not create a schema in database {conn.info.dbname!r}"
        await conn.execute(finding.remedy)
        assert await found(dsn) == []


async def test_table_of_somebody_else_is_told_with_its_owner(database: str, conn: AsyncConnection) -> None:
    await conn.execute('CREATE TABLE t (); CREATE TABLE mine (); CREATE SCHEMA s; CREATE TABLE s."T" ()')
    async with role(conn, database, "REPLICATION") as (name, dsn):
        await conn.execute(f'ALTER TABLE mine OWNER TO "{name}"; GRANT USAGE ON SCHEMA s TO "{name}"')
        findings = await found(dsn, tables=["t", "mine", 's."T"', "missing"])
        assert [finding.title for finding in findings] == [
            "table s.\"T\" belongs to 'postgres', and triggers need its owner",
            "table t belongs to 'postgres', and triggers need its owner",
        ]
        await conn.execute(findings[0].remedy)
        assert await found(dsn, tables=["t", 's."T"']) == []


async def test_partition_of_somebody_else_is_told_too(database: str, conn: AsyncConnection) -> None:
    await conn.execute("CREATE TABLE t (k int) PARTITION BY LIST (k); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)")
    async with role(conn, database, "REPLICATION") as (name, dsn):
        await conn.execute(f'ALTER TABLE t OWNER TO "{name}"')
        assert (await the_one(dsn)).title == "table t1 belongs to 'postgres', and triggers need its owner"


async def test_row_security_that_hides_rows_from_the_recount_is_refused(database: str, conn: AsyncConnection) -> None:
    async with role(conn, database, "REPLICATION") as (name, dsn):
        await conn.execute(
            f'CREATE TABLE t (); ALTER TABLE t OWNER TO "{name}"; ALTER TABLE t ENABLE ROW LEVEL SECURITY'
        )
        assert await found(dsn) == []
        await conn.execute("ALTER TABLE t FORCE ROW LEVEL SECURITY")
        finding = await the_one(dsn)
        assert "FORCE ROW LEVEL SECURITY" in finding.title
        await conn.execute(finding.remedy)
        assert await found(dsn) == []


async def test_schema_of_somebody_else_is_refused(database: str, conn: AsyncConnection) -> None:
    await conn.execute("CREATE SCHEMA cdc_counter")
    async with role(conn, database, "REPLICATION") as (name, dsn):
        finding = await the_one(dsn)
        assert finding.title == f"schema 'cdc_counter' belongs to 'postgres', not to {name!r}"
        await conn.execute(finding.remedy.partition(";")[0])
        assert await found(dsn) == []


async def test_read_only_role_is_refused(database: str, conn: AsyncConnection) -> None:
    async with role(conn, database, "REPLICATION") as (name, dsn):
        await conn.execute(f'ALTER ROLE "{name}" SET default_transaction_read_only = on')
        finding = await the_one(dsn)
        assert "read-only by default" in finding.title
        await conn.execute(finding.remedy)
        assert await found(dsn) == []


async def test_database_without_an_encoding_is_refused(postgres: PostgresServer, conn: AsyncConnection) -> None:
    name = f"{conn.info.dbname}_ascii"
    await conn.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    try:
        finding = await the_one(postgres.dsn(name))
        assert finding.title.startswith(f"database {name!r} has encoding SQL_ASCII")
    finally:
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_two_dsns_must_lead_to_one_database(postgres: PostgresServer, database: str) -> None:
    finding = await the_one(database, PostgresSettings(dsn=postgres.dsn("postgres"), admin_dsn=database))
    assert "postgres.dsn and postgres.admin_dsn lead to different databases" in finding.title
    assert "database 'postgres'" in finding.title


async def test_forgotten_prepared_transaction_of_another_database_is_named(
    postgres: PostgresServer, database: str, conn: AsyncConnection
) -> None:
    gid = f"forgotten by {conn.info.dbname}"
    async with await AsyncConnection.connect(postgres.dsn("postgres"), autocommit=True) as elsewhere:
        await elsewhere.execute("BEGIN; SELECT pg_current_xact_id()")
        await elsewhere.execute(f"PREPARE TRANSACTION '{gid}'")
        try:
            finding = await the_one(database)
            assert f"prepared transaction {gid!r} in database 'postgres'" in finding.title
        finally:
            await elsewhere.execute(finding.remedy.partition(";")[0])
    assert await found(database) == []


async def test_session_idle_in_a_transaction_is_named_by_pid(database: str, conn: AsyncConnection) -> None:
    async with await AsyncConnection.connect(database) as other:
        await other.execute("SELECT pg_current_xact_id()")
        pid = other.info.backend_pid
        [transaction] = [one for one in await read_open_transactions(conn, 0) if one.pid == pid]
        [finding] = judge_open_transactions([transaction])
        assert f"pid {pid} (postgres in {conn.info.dbname}, idle in transaction)" in finding.title
        await conn.execute(finding.remedy)
        with pytest.raises(psycopg.OperationalError):
            await other.execute("SELECT 1")


async def test_open_transactions_are_nothing_to_a_slot_that_exists(database: str, conn: AsyncConnection) -> None:
    settings = PostgresSettings(dsn=database, slot=f"of_{conn.info.dbname}")
    await conn.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [settings.slot])
    await conn.execute("BEGIN; SELECT pg_current_xact_id()")
    await conn.execute(f"PREPARE TRANSACTION '{conn.info.dbname}'")
    try:
        assert await found(database, settings) == []
    finally:
        await conn.execute(f"ROLLBACK PREPARED '{conn.info.dbname}'")


@pytest.mark.parametrize("postgres", ["18"], indirect=True)
async def test_standby_that_the_consumer_can_overtake_is_warned_about(database: str, conn: AsyncConnection) -> None:
    await conn.execute("SELECT pg_create_physical_replication_slot('standby_1')")
    try:
        finding = await the_one(database)
        without = await found(database, PostgresSettings(dsn=database, failover=False))
    finally:
        await conn.execute("SELECT pg_drop_replication_slot('standby_1')")
    assert finding.severity is Severity.WARNING
    assert finding.remedy.startswith("ALTER SYSTEM SET synchronized_standby_slots = 'standby_1';")
    assert without == []


@pytest.mark.parametrize("postgres", ["15"], indirect=True)
async def test_failover_slot_is_refused_where_there_is_none(database: str) -> None:
    finding = await the_one(database, PostgresSettings(dsn=database, failover=True))
    assert finding.title.startswith("postgres.failover = true needs PostgreSQL 17, the server is 15.")


async def test_standby_is_refused(tmp_path: Path) -> None:
    with PostgresServer(fsync=False) as server:
        server.stop()
        signal_file = server.data_dir / "standby.signal"
        signal_file.touch()
        owner = server.data_dir.stat()
        shutil.chown(signal_file, owner.st_uid, owner.st_gid)
        server.start()
        finding = await the_one(server.dsn())
    assert finding.title == "the server is a standby (in recovery): triggers and the slot belong on the primary"


async def test_pg_hba_that_refuses_the_stream_is_named(narrow: PostgresServer) -> None:
    rules = narrow.data_dir / "pg_hba.conf"
    before = rules.read_text()
    async with await AsyncConnection.connect(narrow.dsn(), autocommit=True) as conn:
        await conn.execute("CREATE ROLE refused LOGIN REPLICATION")
        rules.write_text("host all refused 127.0.0.1/32 reject\n" + before)
        await conn.execute("SELECT pg_reload_conf()")
        dsn = narrow.dsn(user="refused")
        settings = PostgresSettings(dsn=dsn, admin_dsn=narrow.dsn())

        async def titles() -> list[str]:
            return [finding.title for finding in await found(narrow.dsn(), settings)]

        try:
            said = await eventually(titles, "the new rules hold", until=lambda seen: "pg_hba.conf" in " ".join(seen))
        finally:
            rules.write_text(before)
            await conn.execute("SELECT pg_reload_conf()")
            await conn.execute("DROP ROLE refused")
    assert any(title.startswith("pg_hba.conf refuses the replication connection of 'refused'") for title in said)


async def test_stream_that_leads_nowhere_is_told_without_its_password(database: str) -> None:
    nowhere = f"postgresql://app:hunter2@127.0.0.1:{free_port()}/shop"
    finding = await the_one(database, PostgresSettings(dsn=nowhere, admin_dsn=database))
    assert finding.title.startswith("no replication connection can be opened")
    assert "hunter2" not in finding.title + finding.remedy


async def test_transaction_pooler_is_found_out(database: str, bouncer: Bouncer) -> None:
    through = bouncer("transaction")
    titles = [finding.title for finding in await found(through, PostgresSettings(dsn=database, admin_dsn=through))]
    assert len(titles) == 1
    assert "goes through a pooler that changes servers between transactions" in titles[0]


async def test_session_pooler_is_only_warned_about(database: str, bouncer: Bouncer) -> None:
    through = bouncer("session")
    finding = await the_one(through, PostgresSettings(dsn=database, admin_dsn=through))
    assert finding.severity is Severity.WARNING
    assert "goes through a proxy or session pooler" in finding.title


async def test_pooler_that_stops_the_stream_is_named(database: str, bouncer: Bouncer) -> None:
    through = bouncer("session")
    finding = await the_one(database, PostgresSettings(dsn=through, admin_dsn=database))
    assert finding.title.startswith("a pooler lets no replication connection through")
    assert "not the pooler's" in finding.remedy
