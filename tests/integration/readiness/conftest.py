"""Connections to servers that are set up badly on purpose, and a real PgBouncer where this machine has one."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from psycopg import AsyncConnection, conninfo

from cdc_counter.embedded import PostgresServer
from cdc_counter.embedded.binaries import server_user
from cdc_counter.embedded.child import free_port
from tests.rig.eventually import eventually_sync

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")

Bouncer = Callable[[str], str]


@pytest.fixture
async def conn(database: str) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def narrow() -> Iterator[PostgresServer]:
    """Start a server without logical WAL and with one sender and one slot."""
    settings = {
        "wal_level": "replica",
        "max_wal_senders": "1",
        "max_replication_slots": "1",
        "max_slot_wal_keep_size": "1GB",
        "idle_replication_slot_timeout": "1h",
    }
    with PostgresServer(fsync=False, settings=settings) as server:
        yield server


@pytest.fixture
def bouncer(database: str) -> Iterator[Bouncer]:
    """Start PgBouncer in front of the database in a pool mode; gives the dsn through it."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed; install the package pgbouncer to test against the real one")
    with ExitStack() as running:
        # Not pytest's temporary folder: it is closed to others, and PgBouncer refuses to run as root.
        folder = Path(running.enter_context(TemporaryDirectory(prefix="cdc-counter-pgbouncer-")))
        folder.chmod(0o755)
        yield lambda pool_mode: running.enter_context(_pgbouncer(PGBOUNCER, database, pool_mode, folder))


@contextmanager
def _pgbouncer(program: str, dsn: str, pool_mode: str, folder: Path) -> Iterator[str]:
    target = conninfo.conninfo_to_dict(dsn)
    port = free_port()
    users, config, log = folder / "users.txt", folder / "pgbouncer.ini", folder / "log"
    users.write_text(f'"{target["user"]}" ""\n')
    config.write_text(
        f"[databases]\n* = host={target['host']} port={target['port']}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {users}\npool_mode = {pool_mode}\n"
    )
    owner = server_user()
    for path in (users, config):
        path.chmod(0o644)
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [program, config],
            stdout=output,
            stderr=output,
            user=owner.uid if owner else None,
            group=owner.gid if owner else None,
            extra_groups=[] if owner else None,
        ) as process,
    ):
        through = conninfo.make_conninfo(dsn, port=port)
        try:
            eventually_sync(lambda: _answers(through), f"pgbouncer answers, log: {log.read_text()}")
            yield through
        finally:
            process.terminate()


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
