"""A deployment small enough to be broken in every test: tables, counters, configurations, and traffic that survives.

The honest recount is plain SQL that shares nothing with what the product installs.
"""

import contextlib
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Self

import psycopg
import redis

from cdc_counter.core.lsn import Lsn
from cdc_counter.embedded import PostgresServer
from cdc_counter.embedded.child import free_port
from tests.rig import daemon as processes
from tests.rig.daemon import Daemon
from tests.rig.databases import fresh_database
from tests.rig.eventually import eventually_sync
from tests.rig.failpoints import Failpoints
from tests.rig.tallies import Counted, all_tallies, differences, states, wait_applied
from tests.rig.warm import WARM_PROGRAM

SCHEMA = """
CREATE TABLE conversations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id int NOT NULL, channel_id int, status text NOT NULL DEFAULT 'open'
);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shop text NOT NULL, amount numeric(12,2), weight int NOT NULL DEFAULT 10, parts int NOT NULL DEFAULT 1
);
CREATE TABLE visits (page text NOT NULL, region text NOT NULL) PARTITION BY LIST (region);
CREATE TABLE visits_eu PARTITION OF visits FOR VALUES IN ('eu');
INSERT INTO conversations (account_id, channel_id, status)
SELECT i % 5, i % 7, CASE i % 3 WHEN 0 THEN 'closed' ELSE 'open' END FROM generate_series(1, 2000) AS i;
INSERT INTO orders (shop, amount) SELECT 'shop ' || i % 9, i / 3.0 FROM generate_series(1, 500) AS i;
INSERT INTO visits SELECT 'page ' || i % 4, 'eu' FROM generate_series(1, 100) AS i;
"""

COUNTERS = """
[[counter]]
name = "open_by_channel"
table = "conversations"
where = "status = 'open'"
scope = "account_id"
by = "channel_id"
[[counter]]
name = "conversations"
table = "conversations"
[[counter]]
name = "amount_by_shop"
table = "orders"
measure = "sum(amount)"
by = "shop"
[[counter]]
name = "orders_by_ratio"
table = "orders"
by = "weight / parts"
[[counter]]
name = "orders_by_shop"
table = "orders"
by = "shop"
[[counter]]
name = "visits_by_page"
table = "visits"
by = "page"
"""

HONEST = {
    "open_by_channel": "SELECT account_id::text, coalesce(channel_id::text, '\\N'), count(*) FROM conversations"
    " WHERE status = 'open' GROUP BY account_id, channel_id",
    "conversations": "SELECT '-', '-', count(*) FROM conversations",
    "amount_by_shop": "SELECT '-', shop, (100 * sum(amount))::bigint FROM orders GROUP BY shop",
    "orders_by_ratio": "SELECT '-', (weight / parts)::text, count(*) FROM orders GROUP BY weight / parts",
    "orders_by_shop": "SELECT '-', shop, count(*) FROM orders GROUP BY shop",
    "visits_by_page": "SELECT '-', page, count(*) FROM visits GROUP BY page",
}


def honest_recount(dsn: str, *, without: frozenset[str] = frozenset()) -> Counted:
    """Return (counter, scope, bucket) -> value, zeros absent, of every counter but those named."""
    found: Counted = {}
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        for counter in HONEST.keys() - without:
            for scope, bucket, value in connection.execute(HONEST[counter].encode()):
                if value:
                    found[counter, scope, bucket] = int(value)
    return found


def command(*words: str, config: Path, program: Sequence[str] = WARM_PROGRAM) -> CompletedProcess[str]:
    """Run one `cdc-counter` command to its end, which does without loading everything first."""
    return processes.command(*words, config=config, program=program)


class Traffic:
    """Threads that write until told to stop, `pause` seconds between transactions; a lost server is awaited.

    A context manager.
    """

    def __init__(self, dsn: str, count: int = 2, pause: float = 0.02) -> None:
        self._dsn = dsn
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=[number], daemon=True) for number in range(count)]
        self.committed = 0
        self.unexpected: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and fail on what a writer must not see."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        assert self.unexpected == []

    def wait_for_more(self, count: int = 20) -> None:
        """Wait until so many more transactions were committed."""
        goal = self.committed + count
        eventually_sync(lambda: self.committed >= goal, f"{count} more transactions", deadline=30)

    def _write(self, number: int) -> None:
        chance = random.Random(number)
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=2) as connection:
                    while not self._stop.is_set():
                        self._transaction(connection, chance)
                        # A rate, not a wait: the machine is shared with what is tested.
                        time.sleep(self._pause)
            except psycopg.OperationalError:
                time.sleep(0.05)
            except psycopg.Error as error:
                self.unexpected.append(f"{type(error).__name__}: {error}")
                return

    def _transaction(self, connection: psycopg.Connection, chance: random.Random) -> None:
        account, channel, some = chance.randrange(5), chance.randrange(7), chance.randrange(20)
        roll_back = chance.random() < 0.15
        with contextlib.suppress(psycopg.errors.DeadlockDetected), connection.transaction(force_rollback=roll_back):
            match chance.randrange(5):
                case 0:
                    connection.execute(
                        "INSERT INTO conversations (account_id, channel_id) SELECT %s, %s FROM generate_series(1, %s)",
                        [account, channel, some + 1],
                    )
                case 1:
                    connection.execute(
                        "UPDATE conversations SET status = 'closed' WHERE account_id = %s AND id %% 20 = %s",
                        [account, some],
                    )
                case 2:
                    connection.execute(
                        "DELETE FROM conversations WHERE channel_id = %s AND id %% 20 = %s", [channel, some]
                    )
                case 3:
                    connection.execute(
                        "INSERT INTO orders (shop, amount) VALUES (%s, %s)", [f"shop {channel}", some - 10.25]
                    )
                case _:
                    connection.execute("UPDATE orders SET shop = %s WHERE id %% 20 = %s", [f"shop {account}", some])
                    connection.execute("INSERT INTO visits VALUES (%s, 'eu')", [f"page {some}"])
        self.committed += not roll_back


@dataclass
class Deployment:
    """One database, one Redis, and as many processes as a test wants. A context manager: kills what is left."""

    dsn: str
    redis_url: str
    folder: Path
    daemons: list[Daemon] = field(default_factory=list)
    prefix: str = "cdc"

    def __enter__(self) -> Self:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(SCHEMA)
        self.config = self.write_config("c")
        self.failpoints = Failpoints(self.folder / "failpoints")
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons:
            daemon.kill()

    def write_config(
        self,
        name: str,
        *,
        dsn: str = "",
        redis_url: str = "",
        slot: str = "cdc_counter",
        postgres: str = "",
        redis: str = "",
        extra: str = "",
        counters: str = COUNTERS,
    ) -> Path:
        """Write a configuration; `postgres` and `redis` are more lines of their sections, `extra` more sections."""
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'[postgres]\ndsn = "{dsn or self.dsn}"\nslot = "{slot}"\n{postgres}\n'
            f'[redis]\nurl = "{redis_url or self.redis_url}"\nprefix = "{self.prefix}"\n{redis}\n'
            f"[gateway]\nport = {free_port()}\n{extra}\n{counters}",
            encoding="utf-8",
        )
        return path

    def init(self, *words: str, config: Path | None = None) -> CompletedProcess[str]:
        """Run `init`, which must succeed."""
        done = command("init", *words, config=config or self.config)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def obedient(self, *words: str, config: Path | None = None) -> CompletedProcess[str]:
        """Run a command that obeys `failpoints`."""
        return command(*words, config=config or self.config, program=self.failpoints.program)

    def daemon(
        self, name: str = "daemon", config: Path | None = None, *words: str, program: Sequence[str] = WARM_PROGRAM
    ) -> Daemon:
        """Return a daemon that is not started yet; its gateway has a port of its own.

        With `failpoints.program` it obeys `failpoints`.
        """
        port = free_port()
        chosen = config or self.config
        copy = self.folder / f"{name}.toml"
        text = chosen.read_text(encoding="utf-8")
        before, _, after = text.partition("[gateway]\nport = ")
        copy.write_text(f"{before}[gateway]\nport = {port}\n{after.partition(chr(10))[2]}", encoding="utf-8")
        daemon = Daemon(copy, self.folder / f"{name}.log", port=port, words=("run", *words), program=program)
        self.daemons.append(daemon)
        return daemon

    def assert_exact(self, *, without: frozenset[str] = frozenset(), deadline: float = 30.0) -> None:
        """Wait until every commit so far is applied and every counter is live, then compare every key."""
        wait_applied(self.dsn, self.redis_url, self.prefix, deadline=deadline)
        found = all_tallies(self.redis_url, self.prefix)
        tallies = {key: value for key, value in found.items() if key[0] not in without}
        truth = honest_recount(self.dsn, without=without)
        assert len(truth) > 30
        assert differences(tallies, truth) == {}

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement; returns its rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def slot_position(self) -> Lsn:
        """Return confirmed_flush_lsn."""
        ((lsn,),) = self.sql(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'cdc_counter'"
        )
        return Lsn.parse(lsn)

    def walsender(self) -> int | None:
        """Return the pid of the backend that streams the slot."""
        rows = self.sql("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'cdc_counter'")
        return rows[0][0] if rows else None

    def record(self, counter: str) -> dict[str, Any]:
        """Return a counter's record as it stands in Redis."""
        with redis.Redis.from_url(self.redis_url, protocol=2) as client:
            return dict(json.loads(client.hget(f"{self.prefix}:counters", counter) or b"{}"))

    def epoch(self) -> str:
        """Return the epoch's identity, '' for none."""
        with redis.Redis.from_url(self.redis_url, protocol=2) as client:
            return (client.hget(f"{self.prefix}:meta", "epoch") or b"").decode()

    def states(self) -> dict[str, str]:
        """Return every counter's state."""
        return states(self.redis_url, self.prefix)


@contextlib.contextmanager
def own_deployment(server: PostgresServer, redis_url: str, folder: Path) -> Iterator[Deployment]:
    """Give a deployment on a server that only this test uses; it is started, and closed afterwards."""
    with server, fresh_database(server) as dsn, Deployment(dsn, redis_url, folder) as deployment:
        yield deployment


def wait_for_end(daemon: Daemon, deadline: float = 90.0) -> int:
    """Wait until a daemon has ended by itself; returns its exit code."""
    return daemon.process.wait(deadline)


def wait_said(daemon: Daemon, words: str, times: int = 1, deadline: float = 30.0) -> None:
    """Wait until a running daemon has logged these words so many times."""

    def said() -> bool:
        assert daemon.running, f"the daemon ended with {daemon.process.returncode}: {daemon.log_text()[-2000:]}"
        return daemon.log_text().count(words) >= times

    eventually_sync(said, f"{times} times {words!r} in the log", deadline=deadline)


def fetch(daemon: Daemon, path: str) -> tuple[int, dict[str, Any]]:
    """GET a path of a daemon's gateway; returns status and JSON."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}{path}", timeout=40) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")
