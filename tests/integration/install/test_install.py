"""Installing: once is enough, anywhere is a place to continue from, and nobody's writers wait."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from cdc_counter.core.definition import CounterDefinition
from cdc_counter.errors import BusyError, NotReadyError, RefusedError
from cdc_counter.postgres.install import InstallEvent, Moment, execute, plan_objects, remove_objects
from cdc_counter.postgres.installed import installed_counters
from cdc_counter.postgres.janitor import prune
from cdc_counter.postgres.steps import Plan
from tests.integration.capture.helpdesk import (
    AMOUNT,
    COUNTERS,
    OPEN,
    PUBLICATION,
    SCHEMA,
    TOTAL,
    WRITER,
    captured,
    install,
    make_writer,
    truth,
)
from tests.rig.eventually import eventually

OURS = """
SELECT 'relation', n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
UNION ALL SELECT 'function', p.oid::regprocedure::text FROM pg_proc p
WHERE p.pronamespace::regnamespace::text = 'cdc_counter'
UNION ALL SELECT 'trigger', t.tgrelid::regclass || t.tgname FROM pg_trigger t WHERE NOT t.tgisinternal
UNION ALL SELECT 'publication', pubname FROM pg_publication UNION ALL SELECT 'schema', nspname FROM pg_namespace
WHERE nspname NOT LIKE 'pg\\_temp%' AND nspname NOT LIKE 'pg\\_toast%'
ORDER BY 1, 2
"""


async def objects(session: AsyncConnection[Any]) -> list[Any]:
    return await (await session.execute(OURS)).fetchall()


async def plan(session: AsyncConnection[Any], *definitions: CounterDefinition) -> Plan:
    return await plan_objects(session, SCHEMA, PUBLICATION, definitions)


async def ids(session: AsyncConnection[Any]) -> dict[str, int]:
    return {counter.name: counter.id for counter in await installed_counters(session, SCHEMA)}


async def test_second_install_finds_nothing_to_do(session: AsyncConnection[Any], desk: str) -> None:
    assert not (await plan(session, *COUNTERS)).is_empty
    assert await installed_counters(session, SCHEMA) == []
    assert await install(desk)
    assert (await plan(session, *COUNTERS)).is_empty
    assert (await plan(session, *reversed(COUNTERS))).is_empty
    assert await install(desk) == []


async def test_planning_changes_nothing(session: AsyncConnection[Any]) -> None:
    before = await objects(session)
    await plan(session, *COUNTERS)
    assert await objects(session) == before


async def test_removal_leaves_nothing_behind(session: AsyncConnection[Any], desk: str) -> None:
    before = await objects(session)
    await install(desk)
    assert await objects(session) != before
    events: list[InstallEvent] = []
    await remove_objects(
        session, lambda: AsyncConnection.connect(desk, autocommit=True), SCHEMA, PUBLICATION, events.append
    )
    assert await objects(session) == before
    await remove_objects(
        session, lambda: AsyncConnection.connect(desk, autocommit=True), SCHEMA, PUBLICATION, events.append
    )


async def test_printed_sql_installs_the_same_with_psql(session: AsyncConnection[Any], desk: str) -> None:
    script = "\n".join(line for step in (await plan(session, *COUNTERS)).steps for line in step.sql())
    # The simple query protocol runs a script as psql would send it.
    with psycopg.connect(desk, autocommit=True) as connection:
        for statement in (await plan(session, *COUNTERS)).steps:
            for line in statement.sql():
                connection.execute(line)
    assert "\nCOMMIT;" in script
    assert (await plan(session, *COUNTERS)).is_empty


async def test_counter_keeps_its_id_until_its_meaning_changes(session: AsyncConnection[Any], desk: str) -> None:
    await install(desk, [OPEN, TOTAL])
    assert await ids(session) == {"open": 1, "total": 2}
    changed = CounterDefinition("open", "conversations", where="status <> 'closed'", scope=("account_id",))
    await install(desk, [TOTAL, changed, AMOUNT])
    assert await ids(session) == {"total": 2, "open": 3, "amount": 4}
    await install(desk, [TOTAL])
    assert await ids(session) == {"total": 2}
    await install(desk, [TOTAL, changed])
    assert await ids(session) == {"total": 2, "open": 5}


async def test_counter_starts_anew_after_a_hole_in_capture(session: AsyncConnection[Any], desk: str) -> None:
    await install(desk, [OPEN, TOTAL])
    await session.execute("ALTER TABLE conversations DISABLE TRIGGER zz_cdc_counter_delete")
    await install(desk, [OPEN, TOTAL])
    assert await ids(session) == {"open": 3, "total": 4}
    row = await (await session.execute("SELECT count(*) FROM pg_trigger WHERE tgenabled = 'A'")).fetchone()
    assert row == (4,)


async def test_counter_moved_to_another_table_leaves_the_first_one(session: AsyncConnection[Any], desk: str) -> None:
    await install(desk, [TOTAL])
    await install(desk, [CounterDefinition("total", "accounts")])
    assert await ids(session) == {"total": 2}
    triggers = await (
        await session.execute("SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal")
    ).fetchall()
    assert triggers == [("accounts",)]
    assert (await plan(session, CounterDefinition("total", "accounts"))).is_empty


async def test_view_is_replaced_when_its_keys_become_of_another_kind(session: AsyncConnection[Any], desk: str) -> None:
    for by in (("channel_id",), ("status",), ("status", "channel_id"), (), ("created::date",)):
        if by == ("created::date",):
            await session.execute("ALTER TABLE conversations ADD created timestamp DEFAULT 'epoch'")
        await install(desk, [CounterDefinition("total", "conversations", by=by)])
    with psycopg.connect(desk, autocommit=True) as connection:
        assert truth(connection, "total") == {("-", "1970-01-01"): 99}


async def test_table_dropped_with_its_counters_is_cleaned_up(session: AsyncConnection[Any], desk: str) -> None:
    other = CounterDefinition("others", "accounts")
    await install(desk, [TOTAL, other])
    await session.execute("DROP TABLE conversations CASCADE")
    await install(desk, [other])
    assert await ids(session) == {"others": 1}
    assert (await plan(session, other)).is_empty


async def test_two_installs_at_once_do_not_share_an_id(session: AsyncConnection[Any], desk: str) -> None:
    await install(desk, [TOTAL])
    one = await plan(session, TOTAL, CounterDefinition("one", "accounts"))
    two = await plan(session, TOTAL, OPEN)

    async def connect() -> AsyncConnection[Any]:
        return await AsyncConnection.connect(desk, autocommit=True)

    await execute(one, connect, lambda _: None)
    with pytest.raises(BusyError, match="another installation"):
        await execute(two, connect, lambda _: None)
    assert await ids(session) == {"total": 1, "one": 2}


async def test_schema_or_publication_of_somebody_else_is_left_alone(session: AsyncConnection[Any]) -> None:
    await session.execute("CREATE PUBLICATION cdc_counter FOR TABLE conversations")
    with pytest.raises(RefusedError, match="publication 'cdc_counter' exists but is not"):
        await plan(session, TOTAL)
    await session.execute("DROP PUBLICATION cdc_counter; CREATE SCHEMA cdc_counter; CREATE TABLE cdc_counter.x ()")
    with pytest.raises(RefusedError, match="schema 'cdc_counter' exists and is not ours"):
        await plan(session, TOTAL)


async def test_publication_that_was_altered_is_refused(session: AsyncConnection[Any], desk: str) -> None:
    await install(desk, [TOTAL])
    for change in (
        "ADD TABLE conversations",
        "DROP TABLE conversations",
        "SET (publish = 'insert, update')",
        "SET (publish = 'insert', publish_via_partition_root = false)",
    ):
        await session.execute(f"ALTER PUBLICATION cdc_counter {change}")
        if change.startswith("DROP"):
            assert (await plan(session, TOTAL)).is_empty
            continue
        with pytest.raises(RefusedError):
            await plan(session, TOTAL)


async def test_install_names_who_it_waits_for_and_lets_other_writers_pass(
    session: AsyncConnection[Any], desk: str
) -> None:
    """A writer that comes while the installation waits is served, although an old transaction is in the way."""
    waiting: asyncio.Queue[InstallEvent] = asyncio.Queue()
    async with await AsyncConnection.connect(desk, application_name="long job") as blocker:
        await blocker.execute("UPDATE conversations SET note = 'mine' WHERE id = 1000")

        async def connect() -> AsyncConnection[Any]:
            return await AsyncConnection.connect(desk, autocommit=True)

        task = asyncio.create_task(execute(await plan(session, OPEN), connect, waiting.put_nowait))
        for _ in range(3):
            while (event := await asyncio.wait_for(waiting.get(), 90)).moment is not Moment.WAITING:
                pass
            # Queued behind a waiting lock it would not be done before the blocker is: the timeout would end it.
            await session.execute("SET statement_timeout = '10s'")
            await session.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 1)")
        assert not task.done()
        assert event.blockers
        assert event.blockers[0].pid == blocker.info.backend_pid
        assert event.blockers[0].application == "long job"
        assert "UPDATE conversations" in str(event.blockers[0])
        await blocker.commit()
    await asyncio.wait_for(task, 90)
    assert await ids(session) == {"open": 1}


async def test_install_names_a_prepared_transaction_that_it_waits_for(session: AsyncConnection[Any], desk: str) -> None:
    for statement in ("BEGIN", "UPDATE conversations SET note = 'x'", "PREPARE TRANSACTION 'forgotten'"):
        await session.execute(statement)
    waiting: asyncio.Queue[InstallEvent] = asyncio.Queue()

    async def connect() -> AsyncConnection[Any]:
        return await AsyncConnection.connect(desk, autocommit=True)

    task = asyncio.create_task(execute(await plan(session, OPEN), connect, waiting.put_nowait))
    while (event := await asyncio.wait_for(waiting.get(), 90)).moment is not Moment.WAITING:
        pass
    assert "prepared transaction 'forgotten'" in str(event.blockers[0])
    await session.execute("ROLLBACK PREPARED 'forgotten'")
    await asyncio.wait_for(task, 90)


async def test_new_counter_counts_from_its_first_commit_under_writers(session: AsyncConnection[Any], desk: str) -> None:
    """What the triggers saw plus what was there when they came is the truth: no write slips between."""
    stop = asyncio.Event()

    async def write() -> None:
        async with await AsyncConnection.connect(desk, autocommit=True) as writer:
            while not stop.is_set():
                await writer.execute("INSERT INTO conversations (account_id, channel_id) VALUES (1, 1), (2, 2)")
                await writer.execute("DELETE FROM conversations WHERE id = (SELECT min(id) FROM conversations)")

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(write())
        await install(desk, [TOTAL])
        for _ in range(5):
            # One snapshot sees both sides; their difference is what was there before and never changes.
            before = await _base(session)
            await session.execute("INSERT INTO conversations (account_id) VALUES (3)")
            assert await _base(session) == before
        await install(desk, [TOTAL, OPEN])
        assert await _base(session) == before
        stop.set()


async def _base(session: AsyncConnection[Any]) -> int:
    row = await (
        await session.execute(
            "SELECT (SELECT count(*) FROM conversations) - (SELECT coalesce(sum(delta), 0) FROM cdc_counter.ledger"
            " WHERE counter = 'total')"
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


KILLED = """
import asyncio, json, os, sys
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from cdc_counter.core.definition import CounterDefinition
from cdc_counter.postgres.install import Moment, execute, plan_objects

dsn, die_at = sys.argv[1], int(sys.argv[2])
definitions = [CounterDefinition(name, table) for name, table in json.loads(sys.argv[3])]

async def main():
    seen = 0
    def on_event(event):
        nonlocal seen
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), 9)
    async def connect():
        return await AsyncConnection.connect(dsn, autocommit=True)
    async with await connect() as session:
        plan = await plan_objects(session, "cdc_counter", "cdc_counter", definitions)
    await execute(plan, connect, on_event)

asyncio.run(main())
"""


@pytest.mark.programme15
async def test_install_killed_at_any_event_is_continued_by_the_next(session: AsyncConnection[Any], desk: str) -> None:
    declared = [("total", "conversations"), ("people", "accounts")]
    definitions = [CounterDefinition(name, table) for name, table in declared]
    reached = 0
    for die_at in range(1, 9):
        result = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", KILLED, desk, str(die_at), json.dumps(declared)], check=False
        )
        assert result.returncode == -9
        remaining = await plan(session, *definitions)
        reached += remaining.is_empty
        await install(desk, definitions)
        assert (await plan(session, *definitions)).is_empty
        assert await ids(session) == {"total": 2, "people": 1}
        await remove_objects(
            session, lambda: AsyncConnection.connect(desk, autocommit=True), SCHEMA, PUBLICATION, lambda _: None
        )
    assert reached == 1, "only the last event comes after the last commit"


async def test_seed_of_existing_rows_is_truth_minus_captured(session: AsyncConnection[Any], desk: str) -> None:
    await install(desk, [TOTAL])
    await session.execute("INSERT INTO conversations (account_id) VALUES (1)")
    with psycopg.connect(desk, autocommit=True) as connection:
        assert truth(connection, "total") == {("-", "-"): 100}
        assert captured(connection, "total") == {("-", "-"): 1}


async def test_column_of_a_foreign_dependent_keeps_the_truth_view(session: AsyncConnection[Any], desk: str) -> None:
    """A view of the user on ours stops the removal with a clear error, and survives an install."""
    await install(desk, [TOTAL])
    await session.execute("CREATE VIEW public.dashboard AS SELECT * FROM cdc_counter.total")
    await install(desk, [CounterDefinition("total", "conversations", where="status = 'open'")])
    assert await ids(session) == {"total": 2}
    with pytest.raises(RefusedError, match="dashboard"):
        await install(desk, [])
    await eventually(lambda: plan(session), "still planned", until=lambda rest: not rest.is_empty)


async def test_owner_without_any_other_right_can_install_count_and_remove(
    session: AsyncConnection[Any], desk: str
) -> None:
    await session.execute(
        "DO $$ BEGIN CREATE ROLE cdc_test_owner LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;"
        "ALTER ROLE cdc_test_owner LOGIN; GRANT ALL ON SCHEMA public TO cdc_test_owner;"
        "ALTER TABLE conversations OWNER TO cdc_test_owner; ALTER TABLE accounts OWNER TO cdc_test_owner"
    )
    await session.execute(f"GRANT CREATE, TEMPORARY ON DATABASE {session.info.dbname} TO cdc_test_owner")
    as_owner = make_conninfo(desk, user="cdc_test_owner")
    await install(as_owner)
    await session.execute("INSERT INTO conversations (account_id) VALUES (1)")
    with psycopg.connect(desk, autocommit=True) as connection:
        assert captured(connection, "total") == {("-", "-"): 1}
        assert truth(connection, "total") == {("-", "-"): 100}

    async def connect() -> AsyncConnection[Any]:
        return await AsyncConnection.connect(as_owner, autocommit=True)

    async with await connect() as owner:
        assert (await plan(owner, *COUNTERS)).is_empty
        assert (await prune(owner, SCHEMA)).skipped == ()
        await remove_objects(owner, connect, SCHEMA, PUBLICATION, lambda _: None)
    assert await ids(session) == {}


async def test_role_without_the_rights_is_told_so(session: AsyncConnection[Any], desk: str) -> None:
    with psycopg.connect(desk, autocommit=True) as connection:
        make_writer(connection)
    as_writer = make_conninfo(desk, user=WRITER)
    with pytest.raises(NotReadyError, match="permission denied"):
        await install(as_writer)
    assert await ids(session) == {}
