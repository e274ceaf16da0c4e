"""Writers that measure: what the application gets to feel of the counters on its tables, and of what befalls them.

Each thread runs every statement twice, on the counted tables and on tables of the same shape without counters, so that
a machine that stalls shows in both. Threads write rows of their own: whoever makes one wait is no writer. Beside them
PostgreSQL is asked, often, who waits for whom. What is asserted is that, and errors; latencies are figures.
"""

import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import psycopg
from psycopg.conninfo import make_conninfo

from tests.rig.eventually import eventually_sync

ROLE: Final = "cdc_test_application"
"""Writes its tables and has no right on anything of ours."""

BARE: Final = """
CREATE SCHEMA bare;
ALTER TABLE public.conversations ADD COLUMN note text;
CREATE TABLE bare.conversations (LIKE public.conversations INCLUDING ALL);
CREATE TABLE bare.orders (LIKE public.orders INCLUDING ALL);
CREATE TABLE bare.visits (LIKE public.visits INCLUDING ALL) PARTITION BY LIST (region);
CREATE TABLE bare.visits_eu PARTITION OF bare.visits FOR VALUES IN ('eu');
INSERT INTO bare.conversations (account_id, channel_id, status)
SELECT account_id, channel_id, status FROM public.conversations;
INSERT INTO bare.orders (shop, amount) SELECT shop, amount FROM public.orders;
INSERT INTO bare.visits SELECT * FROM public.visits;
"""

GRANTS: Final = f"""
DO $$ BEGIN CREATE ROLE {ROLE} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
GRANT USAGE ON SCHEMA public, bare TO {ROLE};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, bare TO {ROLE};
"""

MIX: Final[tuple[tuple[str, ...], ...]] = (
    ("INSERT INTO {s}.conversations (account_id, channel_id) VALUES ({k} % 5, {k} % 7)",),
    ("INSERT INTO {s}.orders (shop, amount) SELECT 'shop ' || i % 9, i FROM generate_series({k}, {k} + 20) AS i",),
    ("UPDATE {s}.conversations SET channel_id = {k} % 7 WHERE id % {n} = {t} AND id % 50 = {k} % 50",),
    ("UPDATE {s}.conversations SET note = 'seen' WHERE id % {n} = {t} AND id % 50 = {k} % 50",),
    ("DELETE FROM {s}.conversations WHERE id % {n} = {t} AND id % 40 = {k} % 40 AND id > 500",),
    ("DELETE FROM {s}.orders WHERE id % {n} = {t} AND id % 20 = {k} % 20 AND id > 500",),
    ("UPDATE {s}.orders SET amount = amount + 1 WHERE id % {n} = {t}",),
    (
        "BEGIN",
        "INSERT INTO {s}.visits VALUES ('page ' || {k} % 4, 'eu')",
        "UPDATE {s}.orders SET shop = 'shop ' || {k} % 9 WHERE id % {n} = {t} AND id % 10 = {k} % 10",
        "SAVEPOINT here",
        "INSERT INTO {s}.conversations (account_id, status) VALUES ({k} % 5, 'closed')",
        "ROLLBACK TO here",
        "COMMIT",
    ),
    ("BEGIN", "DELETE FROM {s}.visits WHERE page = 'page ' || {t} || {k}", "ROLLBACK"),
)
"""Each is one unit: {s} schema, {k} a number that grows, {t} of {n} threads."""

WAITS: Final = """
SELECT w.pid, l.waitstart::text, extract(epoch FROM clock_timestamp() - l.waitstart)::float8,
    coalesce(l.relation::regclass::text, l.locktype), coalesce(l.relation::regclass::text LIKE 'cdc_counter.%%', false),
    array(SELECT s.application_name FROM pg_stat_activity AS s WHERE s.pid = ANY(pg_blocking_pids(w.pid)))
FROM pg_stat_activity AS w JOIN pg_locks AS l ON l.pid = w.pid AND NOT l.granted
WHERE w.application_name = 'writer' AND w.datname = current_database() AND l.waitstart IS NOT NULL
    AND l.locktype <> 'extend'
"""
"""Not who takes turns at making a table's file longer, which is held for one page and is every insert's affair."""

SAMPLE_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait of a writer: the longest it was seen to last, for which lock, and who was before it."""

    seconds: float
    lock: str
    is_ours: bool
    before_it: tuple[str, ...]


@dataclass
class Writers:
    """A context manager: writes until its end, then fails on anything that a writer must not see.

    `may_wait`: seconds for which a session of ours may hold up a writer here; nobody of ours may otherwise.
    """

    dsn: str
    threads: int = 2
    may_wait: float = 0.0
    errors: list[str] = field(default_factory=list)
    counted: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)
    waits: dict[tuple[Any, ...], Wait] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        work: list[Callable[[], None]] = [self._sample]
        work += [lambda number=number: self._write(number) for number in range(self.threads)]  # type: ignore[misc]
        self._running = [threading.Thread(target=self._guarded, args=[one], daemon=True) for one in work]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(60)
        if kind is None:
            self.assert_harmless()

    @property
    def ours(self) -> list[Wait]:
        """The waits for a session of ours, or for a table of ours."""
        return [wait for wait in self.waits.values() if wait.is_ours]

    def assert_harmless(self) -> None:
        """Fail on an error, and on a wait for us that is longer than agreed."""
        assert self.errors == []
        waits = [wait for wait in self.ours if wait.seconds > self.may_wait or not self.may_wait]
        assert waits == [], waits
        assert not any(thread.is_alive() for thread in self._running), "a writer is stuck"

    def wait_for_more(self, count: int = 40, deadline: float = 60.0) -> None:
        """Wait until so many more units were written to the counted tables, whatever stands still beside them."""
        goal = len(self.counted) + count
        eventually_sync(
            lambda: len(self.counted) >= goal or self.errors, f"{count} more units written", deadline=deadline
        )
        assert self.errors == []

    def figures(self) -> dict[str, Any]:
        """Return milliseconds for counted and control, the longest wait for us, and how many errors."""
        return {
            "units": len(self.counted),
            "counted_ms": _spread(self.counted),
            "control_ms": _spread(self.control),
            "longest_wait_for_us_ms": round(1000 * max((wait.seconds for wait in self.ours), default=0.0), 1),
            "errors": len(self.errors),
        }

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must fail with it
            self.errors.append(f"{type(error).__name__}: {error}")

    def _write(self, number: int) -> None:
        chance = random.Random(number)
        with psycopg.connect(
            make_conninfo(self.dsn, user=ROLE, application_name="writer"), autocommit=True
        ) as connection:
            # No patience of its own: who is in the way is to be seen in the waits, not as an error after a while.
            for k in range(1, 10**9):
                if self._stop.is_set():
                    return
                unit = chance.choice(MIX)
                sides = [("public", self.counted), ("bare", self.control)]
                for schema, latencies in chance.sample(sides, 2):
                    statements = [s.format(s=schema, k=k, n=self.threads, t=number) for s in unit]
                    begun = time.perf_counter()
                    for statement in statements:
                        connection.execute(statement.encode())
                    latencies.append(time.perf_counter() - begun)
                # A rate, not a wait: the machine is shared with what is tested.
                time.sleep(0.01)

    def _sample(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True, application_name="sampler") as connection:
            while not self._stop.wait(SAMPLE_SECONDS):
                for pid, begun, seconds, lock, is_our_table, before in connection.execute(WAITS.encode()):
                    ours = is_our_table or any(name.startswith("cdc-counter") for name in before)
                    known = self.waits.get((pid, begun))
                    if known is None or known.seconds < seconds or ours > known.is_ours:
                        ours = ours or (known is not None and known.is_ours)
                        self.waits[pid, begun] = Wait(seconds, lock, ours, tuple(before))


def prepare(dsn: str) -> None:
    """Make the tables without counters, and the role that writes."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(BARE)
        connection.execute(GRANTS)


def _spread(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [0.0] * 99
    return {
        "median": round(1000 * cuts[49], 2),
        "p99": round(1000 * cuts[98], 2),
        "max": round(1000 * max(seconds, default=0.0), 2),
    }
