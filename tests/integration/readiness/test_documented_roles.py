"""The grants of docs/operations.md are enough: they are run as they stand there, and nothing else is granted."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg import AsyncConnection, conninfo

from cdc_counter import wiring
from cdc_counter.config import Config, load_config
from cdc_counter.core.role import Role
from cdc_counter.errors import NotReadyError
from tests.rig.eventually import eventually

PAGE = Path(__file__).parents[3] / "docs/operations.md"
BLOCKS = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Helpdesk:
    """A database as an application has it: an owner of the tables, and a role that may only write rows."""

    dsn: str
    redis_url: str
    folder: Path
    conn: AsyncConnection

    def renamed(self, text: str, *roles: str) -> str:
        """Give the roles names of this database's own, for roles are the cluster's."""
        for role in roles:
            text = re.sub(rf"\b{role}\b", f"{role}_{self.suffix}", text)
        return text

    @property
    def suffix(self) -> str:
        return self.conn.info.dbname

    def dsn_of(self, role: str) -> str:
        return conninfo.make_conninfo(self.dsn, user=f"{role}_{self.suffix}")

    def config(self, dsn: str, admin_dsn: str) -> Config:
        path = self.folder / "helpdesk.toml"
        path.write_text(
            f'[postgres]\ndsn = "{dsn}"\nadmin_dsn = "{admin_dsn}"\nslot = "{self.suffix}"\n'
            f'[redis]\nurl = "{self.redis_url}"\n[stream]\nheartbeat_seconds = 0.2\nstatus_seconds = 0.1\n'
            '[outbox]\nprune_seconds = 0.2\n[[counter]]\nname = "open"\ntable = "conversations"\nby = "channel_id"\n'
        )
        return load_config(path, {})


@pytest.fixture
async def helpdesk(database: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Helpdesk]:
    async with await AsyncConnection.connect(database, autocommit=True) as conn:
        made = Helpdesk(database, redis_url, tmp_path, conn)
        roles = [f"{name}_{made.suffix}" for name in ("helpdesk_owner", "app")]
        for role in roles:
            await conn.execute(f"CREATE ROLE {role} LOGIN")
        await conn.execute(
            f"CREATE TABLE conversations (channel_id int); INSERT INTO conversations VALUES (7), (7);"
            f"ALTER TABLE conversations OWNER TO {roles[0]}; GRANT INSERT ON conversations TO {roles[1]}"
        )
        try:
            yield made
        finally:
            await conn.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                [made.suffix],
            )
            found = await conn.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", [f"%\\_{made.suffix}"])
            for (role,) in await found.fetchall():
                await conn.execute(f'DROP OWNED BY "{role}" CASCADE')
                await conn.execute(f'DROP ROLE "{role}"')


async def count_one_more(helpdesk: Helpdesk, config: Config) -> None:
    """Run the consumer, write as the application, and wait until the tally says so."""
    stop = asyncio.Event()
    source = wiring.source(config)

    async def tally() -> int:
        return (await source.read("open", "-")).values["7"]

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wiring.run(config, stop, role=Role.CONSUMER))
        async with await AsyncConnection.connect(helpdesk.dsn_of("app"), autocommit=True) as app:
            await app.execute("INSERT INTO conversations VALUES (7)")
        await eventually(tally, "the tally is 3", until=lambda value: value == 3)
        await eventually(lambda: _heartbeats(helpdesk), "a heartbeat was written")
        stop.set()
    report = await wiring.read_status(config)
    await source.aclose()
    assert report.findings == ()


async def _heartbeats(helpdesk: Helpdesk) -> int:
    row = await (await helpdesk.conn.execute("SELECT count(*) FROM cdc_counter.outbox WHERE deltas = '[]'")).fetchone()
    assert row is not None
    return int(row[0])


async def test_one_role_with_the_documented_rights_is_enough(helpdesk: Helpdesk) -> None:
    grants = helpdesk.renamed(BLOCKS[0], "cdc_counter", "helpdesk_owner")
    await helpdesk.conn.execute(grants.replace("DATABASE helpdesk", f"DATABASE {helpdesk.suffix}"))
    dsn = helpdesk.dsn_of("cdc_counter")
    config = helpdesk.config(dsn, dsn)
    await wiring.init(config, lambda _: None)
    await count_one_more(helpdesk, config)
    await wiring.drop(config, lambda _: None)


async def test_running_role_needs_no_more_than_the_documented_grants(helpdesk: Helpdesk) -> None:
    owner, stream = f"helpdesk_owner_{helpdesk.suffix}", f"cdc_stream_{helpdesk.suffix}"
    await helpdesk.conn.execute(
        f"CREATE ROLE {stream} LOGIN REPLICATION; ALTER ROLE {owner} REPLICATION;"
        f"GRANT CREATE ON DATABASE {helpdesk.suffix} TO {owner}"
    )
    config = helpdesk.config(helpdesk.dsn_of("cdc_stream"), helpdesk.dsn_of("helpdesk_owner"))
    with pytest.raises(NotReadyError, match="permission denied for schema cdc_counter"):
        await wiring.init(config, lambda _: None)
    await helpdesk.conn.execute(helpdesk.renamed(BLOCKS[1], "cdc_stream"))
    await wiring.init(config, lambda _: None)
    await count_one_more(helpdesk, config)
