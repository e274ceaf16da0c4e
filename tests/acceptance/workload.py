"""Everything that rows can go through, by several writers at once: the workload that counters must survive.

Tables with existing data, counters over them, operations picked at random, and for each counter an honest recount in
plain SQL that shares nothing with what the product installs.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
from psycopg import sql

Cursor = psycopg.Cursor[Any]

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE conversations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id int,
    channel_id int,
    assignee text,
    status text NOT NULL DEFAULT 'open',
    tags text[] NOT NULL DEFAULT '{}',
    amount numeric(12,2),
    customer_id int REFERENCES customers (id) ON DELETE CASCADE,
    referrer_id int DEFAULT 0 REFERENCES customers (id) ON DELETE SET NULL ON UPDATE CASCADE
);
CREATE UNIQUE INDEX conversations_assignee ON conversations (id, assignee);
CREATE TABLE tickets (
    id bigint NOT NULL, region text NOT NULL, day int NOT NULL, state text NOT NULL, weight int,
    PRIMARY KEY (region, day, id)
) PARTITION BY LIST (region);
CREATE TABLE tickets_eu PARTITION OF tickets FOR VALUES IN ('eu') PARTITION BY RANGE (day);
CREATE TABLE tickets_eu_early PARTITION OF tickets_eu FOR VALUES FROM (0) TO (50);
CREATE TABLE tickets_eu_late PARTITION OF tickets_eu FOR VALUES FROM (50) TO (100);
CREATE TABLE tickets_us PARTITION OF tickets FOR VALUES IN ('us');
CREATE TABLE notes (id serial, label text, stars smallint);
CREATE TABLE note_links (note_id int, kind text);
INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(0, 400) AS i;
INSERT INTO conversations (account_id, channel_id, assignee, status, tags, amount, customer_id, referrer_id)
SELECT i % 9, i % 13, 'agent ' || i % 21, CASE i % 3 WHEN 0 THEN 'open' ELSE 'closed' END,
       ARRAY['t' || i % 7, 'all'], i % 1000 / 7.0, i % 400 + 1, i % 400 + 1
  FROM generate_series(1, 30000) AS i;
INSERT INTO tickets SELECT i, CASE WHEN i % 3 = 0 THEN 'us' ELSE 'eu' END, i % 100, 's' || i % 4, i % 11
  FROM generate_series(1, 10000) AS i;
INSERT INTO notes (label, stars) SELECT 'label ' || i % 40, i % 6 FROM generate_series(1, 3000) AS i;
INSERT INTO note_links SELECT i, 'k' || i % 3 FROM generate_series(1, 1000) AS i;
-- A BEFORE trigger that changes rows and drops some, an AFTER trigger that writes to the same table again.
CREATE FUNCTION adjust() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.assignee = 'nobody' THEN RETURN NULL; END IF;
    IF NEW.channel_id = 12 THEN NEW.channel_id := 0; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER adjust BEFORE INSERT OR UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION adjust();
CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO conversations (account_id, channel_id, assignee, status) VALUES (NEW.account_id, 11, 'echo', 'open');
    RETURN NULL;
END $$;
CREATE TRIGGER echo AFTER INSERT ON conversations FOR EACH ROW WHEN (NEW.assignee = 'loud') EXECUTE FUNCTION echo();
"""

COUNTERS = """
[[counter]]
name = "open_by_channel"
table = "conversations"
where = "status = 'open'"
scope = "account_id"
by = "channel_id"

[[counter]]
name = "by_assignee"
table = "public.conversations"
by = "assignee"

[[counter]]
name = "open_by_tag"
table = "conversations"
where = "status <> 'closed'"
scope = "account_id"
by = "unnest(tags)"

[[counter]]
name = "amount_by_account_and_status"
table = "conversations"
measure = "sum(amount)"
by = ["account_id", "status"]

[[counter]]
name = "tickets_by_state"
table = "tickets"
scope = "region"
by = "state"

[[counter]]
name = "ticket_weight"
table = "tickets"
measure = "sum(weight)"

[[counter]]
name = "notes_by_label"
table = "notes"
scope = "label"
by = "stars"

[[counter]]
name = "links_by_kind"
table = "note_links"
by = "kind"
"""

_KEY = (
    r"CASE WHEN {0} IS NULL THEN '\N' WHEN octet_length({0}::text) > 1024 THEN"
    r" left({0}::text, 200) || '~' || encode(sha256(convert_to({0}::text, 'UTF8')), 'hex')"
    r" WHEN {0}::text LIKE '\\%' THEN '\' || ({0})::text ELSE ({0})::text END"
)


def _key(expression: str) -> str:
    return _KEY.format(expression)


HONEST: dict[str, str] = {
    "open_by_channel": f"SELECT {_key('account_id')}, {_key('channel_id')}, count(*) FROM conversations"
    " WHERE status = 'open' GROUP BY account_id, channel_id",
    "by_assignee": f"SELECT '-', {_key('assignee')}, count(*) FROM conversations GROUP BY assignee",
    "open_by_tag": f"SELECT {_key('account_id')}, {_key('tag')}, count(*) FROM conversations, unnest(tags) AS tag"
    " WHERE status <> 'closed' GROUP BY account_id, tag",
    "amount_by_account_and_status": "SELECT '-', replace(json_build_array(account_id, status)::text, ', ', ','),"
    " sum((amount * 100)::bigint) FROM conversations GROUP BY account_id, status",
    "tickets_by_state": f"SELECT region, {_key('state')}, count(*) FROM tickets GROUP BY region, state",
    "ticket_weight": "SELECT '-', '-', sum(weight) FROM tickets",
    "notes_by_label": f"SELECT {_key('label')}, {_key('stars')}, count(*) FROM notes GROUP BY label, stars",
    "links_by_kind": f"SELECT '-', {_key('kind')}, count(*) FROM note_links GROUP BY kind",
}

Counted = dict[tuple[str, str, str], int]


def honest_recount(dsn: str) -> Counted:
    """Return (counter, scope, bucket) -> value, zeros absent, in one snapshot."""
    found: Counted = {}
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        for counter, query in HONEST.items():
            for scope, bucket, value in connection.execute(query.encode()):
                if value:
                    found[counter, scope, bucket] = int(value)
    return found


AWKWARD = [
    None, "", " ", "\\", "\\N", "\\\\x", "N", "null", '"quoted"', "it's", "a:b|c,d", "tab\tnew\nline", "\x01", "😀",
    "é", "e\u0301", "]] redis.call('flushall') --", "{tag}", "<img src=x>", "x" * 3000, "%s", "-",
]  # fmt: skip


class Operations:
    """One writer's repertoire. Every method is one transaction's content, given a cursor in autocommit mode."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.prefix = f"w{seed}"
        self._number = 0

    def pick(self) -> Callable[[Cursor], None]:
        """Return an operation; the frequent ones are small."""
        rare = (self.truncate_leaf, self.truncate_links, self.truncate_in_repeatable_read, self.huge_statement)
        if self.random.random() < 0.03:
            return self.random.choice(rare)
        names = [n for n in dir(self) if not n.startswith("_") and n not in {"pick", "random", "prefix"}]
        often: list[Callable[[Cursor], None]] = [getattr(self, n) for n in names if getattr(self, n) not in rare]
        return self.random.choice(often)

    def insert_one(self, cur: Cursor) -> None:
        self._insert(cur, "open")

    def insert_many(self, cur: Cursor) -> None:
        cur.execute(
            "INSERT INTO conversations (account_id, channel_id, status, tags, amount)"
            " SELECT i %% 9, i %% 14, 'open', ARRAY['bulk', NULL, 'bulk'], i FROM generate_series(1, %s) AS i",
            [self.random.randint(1, 300)],
        )

    def insert_awkward_key(self, cur: Cursor) -> None:
        key = self.random.choice(AWKWARD)
        cur.execute("INSERT INTO notes (label, stars) VALUES (%s, %s)", [key, self.random.choice([None, 1, 2])])
        cur.execute("UPDATE conversations SET assignee = %s WHERE id = %s", [key, self._id()])

    def copy_in(self, cur: Cursor) -> None:
        with cur.copy("COPY conversations (account_id, channel_id, status, tags) FROM STDIN") as copy:
            for _ in range(self.random.randint(1, 50)):
                copy.write_row([self.random.randint(0, 8), self.random.randint(0, 12), "open", ["copied"]])

    def close_some(self, cur: Cursor) -> None:
        self._set_status(cur, "closed")

    def reopen_some(self, cur: Cursor) -> None:
        self._set_status(cur, "open")

    def change_keys(self, cur: Cursor) -> None:
        cur.execute(
            "UPDATE conversations SET account_id = nullif(%s, 8), channel_id = %s, tags = tags || 'moved'::text"
            " WHERE id = %s",
            [*self._pair(13), self._id()],
        )

    def change_nothing_counted(self, cur: Cursor) -> None:
        cur.execute("UPDATE conversations SET referrer_id = referrer_id WHERE id BETWEEN %s AND %s", [1, 50])

    def delete_some(self, cur: Cursor) -> None:
        cur.execute("DELETE FROM conversations WHERE account_id = %s AND id %% 200 = %s", self._pair(200))

    def upsert(self, cur: Cursor) -> None:
        cur.execute(
            "INSERT INTO tickets VALUES (%s, 'us', 5, 's1', 3), (%s, 'us', 5, 's9', 4)"
            " ON CONFLICT (region, day, id) DO UPDATE SET state = 's2', weight = tickets.weight + 1",
            sorted(self.random.sample(range(1, 300), 2)),
        )

    def insert_or_nothing(self, cur: Cursor) -> None:
        cur.execute("INSERT INTO tickets VALUES (%s, 'eu', 1, 's3', 1) ON CONFLICT DO NOTHING", [self._small()])

    def merge(self, cur: Cursor) -> None:
        cur.execute(
            "MERGE INTO notes USING (SELECT i, 'label ' || i AS label FROM generate_series(%s::int, %s::int) AS i) AS s"
            " ON notes.id = s.i"
            " WHEN MATCHED AND s.i %% 3 = 0 THEN DELETE"
            " WHEN MATCHED THEN UPDATE SET stars = coalesce(notes.stars, 0) %% 5 + 1"
            " WHEN NOT MATCHED THEN INSERT (id, label, stars) VALUES (s.i, s.label, 1)",
            [1, self.random.randint(2, 40)],
        )

    def several_ctes(self, cur: Cursor) -> None:
        cur.execute(
            "WITH gone AS (DELETE FROM conversations WHERE id = %s RETURNING account_id),"
            " one AS (INSERT INTO conversations (account_id, channel_id) SELECT account_id, 1 FROM gone),"
            " two AS (INSERT INTO conversations (account_id, channel_id) SELECT account_id, 2 FROM gone),"
            " up AS (UPDATE conversations SET status = 'pending' WHERE id = %s)"
            " UPDATE conversations SET channel_id = 3 WHERE id = %s",
            self.random.sample(range(1, 30000), 3),
        )

    def cascade_delete(self, cur: Cursor) -> None:
        cur.execute("DELETE FROM customers WHERE id = ANY(%s)", [sorted(self.random.sample(range(1, 400), 2))])

    def cascade_back(self, cur: Cursor) -> None:
        cur.execute("INSERT INTO customers VALUES (%s, 'again') ON CONFLICT DO NOTHING", [self.random.randint(1, 400)])

    def cascade_update(self, cur: Cursor) -> None:
        new = self.random.randint(1000, 10**9)
        cur.execute("INSERT INTO customers VALUES (%s, 'renamed') ON CONFLICT DO NOTHING", [new])
        self._insert(cur, "open", referrer=new)
        cur.execute("UPDATE customers SET id = id + 1 WHERE id = %s", [new])
        cur.execute("DELETE FROM customers WHERE id = %s", [new + 1])

    def dropped_and_changed_by_trigger(self, cur: Cursor) -> None:
        self._insert_pair(cur, "x", "nobody")

    def nested_trigger(self, cur: Cursor) -> None:
        self._insert_pair(cur, "loud", "loud")

    def savepoints(self, cur: Cursor) -> None:
        with cur.connection.transaction():
            self._insert(cur, "open")
            try:
                with cur.connection.transaction():
                    self._insert(cur, "undone")
                    self.close_some(cur)
                    raise psycopg.Rollback
            finally:
                self._insert(cur, "kept")

    def rolled_back(self, cur: Cursor) -> None:
        with cur.connection.transaction(force_rollback=True):
            self.insert_many(cur)
            self.delete_some(cur)

    def moved_partition(self, cur: Cursor) -> None:
        cur.execute(
            "UPDATE tickets SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END WHERE id = %s", [self._small()]
        )

    def moved_leaf(self, cur: Cursor) -> None:
        cur.execute("UPDATE tickets_eu SET day = (day + 50) %% 100 WHERE id = %s", [self._small()])

    def leaf_written(self, cur: Cursor) -> None:
        self._number += 1
        number = int(self.prefix[1:]) * 10_000_000 + self._number + time.time_ns() % 1_000_000 * 10_000
        cur.execute("INSERT INTO tickets_eu_late VALUES (%s, 'eu', 77, 'leaf', 2)", [number])
        cur.execute("UPDATE tickets_us SET weight = weight + 1 WHERE id = %s", [self._small()])
        cur.execute("DELETE FROM tickets_eu_early WHERE id = %s", [self._small()])

    def prepared(self, cur: Cursor) -> None:
        name = f"{self.prefix}-{self._number}-{time.time_ns()}"
        self._number += 1
        cur.execute("BEGIN")
        self._insert(cur, "prepared")
        cur.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(name)))
        time.sleep(self.random.random() * 0.05)
        ending = "COMMIT" if self.random.random() < 0.6 else "ROLLBACK"
        cur.execute(sql.SQL("{} PREPARED {}").format(sql.SQL(ending), sql.Literal(name)))

    def serializable(self, cur: Cursor) -> None:
        cur.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        cur.execute("SELECT count(*) FROM notes WHERE stars = 3")
        self.insert_awkward_key(cur)
        cur.execute("COMMIT")

    def hostile_session(self, cur: Cursor) -> None:
        cur.execute("SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; SET standard_conforming_strings = off")
        try:
            self._insert(cur, "open")
        finally:
            cur.execute("RESET ALL")

    def side_door(self, cur: Cursor) -> None:
        cur.execute("SET session_replication_role = replica")
        try:
            self.close_some(cur)
        finally:
            cur.execute("RESET session_replication_role")

    def truncate_leaf(self, cur: Cursor) -> None:
        cur.execute("TRUNCATE tickets_eu_late")

    def truncate_links(self, cur: Cursor) -> None:
        cur.execute("BEGIN")
        cur.execute("INSERT INTO note_links SELECT i, 'before' FROM generate_series(1, 20) AS i")
        cur.execute("TRUNCATE note_links, tickets_us CASCADE")
        cur.execute("INSERT INTO note_links SELECT i, 'after' FROM generate_series(1, 5) AS i")
        cur.execute("COMMIT" if self.random.random() < 0.7 else "ROLLBACK")

    def truncate_in_repeatable_read(self, cur: Cursor) -> None:
        cur.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cur.execute("SELECT 1 FROM notes LIMIT 1")
        cur.execute("TRUNCATE notes")
        cur.execute("INSERT INTO notes (label, stars) SELECT 'fresh ' || i, i FROM generate_series(1, 9) AS i")
        cur.execute("COMMIT")

    def huge_statement(self, cur: Cursor) -> None:
        cur.execute("UPDATE conversations SET assignee = 'mass ' || id %% 20000, channel_id = channel_id + 1 - 1", [])

    def _insert_pair(self, cur: Cursor, first: str, second: str) -> None:
        cur.execute(
            "INSERT INTO conversations (account_id, channel_id, assignee) VALUES (1, 12, %s), (2, 1, %s)",
            [first, second],
        )

    def _set_status(self, cur: Cursor, status: str) -> None:
        cur.execute(
            "UPDATE conversations SET status = %s WHERE account_id = %s AND id %% 50 = %s", [status, *self._pair(50)]
        )

    def _insert(self, cur: Cursor, status: str, referrer: int | None = None) -> None:
        cur.execute(
            "INSERT INTO conversations (account_id, channel_id, assignee, status, tags, amount, referrer_id)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [*self._pair(13), "agent", status, ["t1", self.prefix], self.random.randint(-500, 500) / 100, referrer],
        )

    def _pair(self, second: int) -> list[int]:
        return [self.random.randint(0, 8), self.random.randrange(second)]

    def _id(self) -> int:
        return self.random.randint(1, 30000)

    def _small(self) -> int:
        return self.random.randint(1, 10000)


EXPECTED_FAILURES = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.UniqueViolation,
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.LockNotAvailable,
)
"""What concurrent writers do to each other without us."""


@dataclass
class Writers:
    """Threads that write until told to stop. A context manager; an unexpected error fails the test at its end."""

    dsn: str
    count: int = 4
    seed: int = 1
    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=[self.seed * 100 + n]) for n in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, seed: int) -> None:
        operations = Operations(seed)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '5s'")
            connection.execute("SET deadlock_timeout = '100ms'")
            while not self._stop.is_set():
                operation = operations.pick()
                try:
                    with connection.cursor() as cursor:
                        operation(cursor)
                    self.done[operation.__name__] += 1
                except EXPECTED_FAILURES as error:
                    self.failed[type(error).__name__] += 1
                except psycopg.Error as error:
                    self.unexpected.append(f"{operation.__name__}: {type(error).__name__}: {error}")
                finally:
                    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                        connection.rollback()
