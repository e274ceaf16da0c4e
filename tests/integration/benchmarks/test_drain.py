"""What drains is held to account: wrong sums fail the benchmark, and pollers lose what they are said to lose."""

from collections.abc import Iterator

import psycopg
import pytest
import redis

from benchmarks.bench import PeerMissingError
from benchmarks.drain import readers
from benchmarks.drain.backlog import BASE_PUBLICATION, MANY_KEYS, SLOT, Backlog
from benchmarks.drain.loss import SCHEMA
from benchmarks.drain.polling import BY_DELETING, BY_ID, BY_TRANSACTION, Poller
from benchmarks.stage import Stage

pytestmark = pytest.mark.programme

ROWS = 3_000


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backlog]:
    with Stage(tmp_path_factory.mktemp("drain"), {"synchronous_commit": "off"}) as stage:
        yield Backlog(stage, MANY_KEYS, ROWS)


def test_readers_drain_the_same_backlog_one_after_the_other(backlog: Backlog) -> None:
    for publication in (SLOT, BASE_PUBLICATION):
        assert readers.pg_recvlogical(backlog, "tcp", publication) > 0
    assert readers.cdc_counter(backlog, "unix") > 0
    assert backlog.stage.sql("SELECT slot_name FROM pg_replication_slots") == [("recorded",)]


def test_sums_that_are_not_the_tables_fail_the_drain(backlog: Backlog) -> None:
    backlog.restore_tallies()
    with pytest.raises(AssertionError, match="1000 of 1000 sums are wrong"):
        backlog.require_exact()


def test_a_plugin_that_is_not_there_is_missing(backlog: Backlog) -> None:
    with pytest.raises(PeerMissingError, match="no output plugin wal2json"):
        readers.psycopg2(backlog, "tcp", ROWS, "wal2json")


@pytest.mark.parametrize(("kind", "lost"), [(BY_ID, 1), (BY_TRANSACTION, 0), (BY_DELETING, 0)])
def test_a_poller_loses_what_commits_late_only_where_it_remembers_ids(
    database18: str, redis_url: str, kind: str, lost: int
) -> None:
    write = "WITH one AS (INSERT INTO events (bucket) VALUES ('b') RETURNING *) INSERT INTO queue SELECT * FROM one"
    write = write.replace("SELECT *", "SELECT id, bucket, amount")
    with (
        psycopg.connect(database18, autocommit=True) as connection,
        psycopg.connect(database18) as late,
        redis.Redis.from_url(redis_url) as client,
    ):
        connection.execute(SCHEMA)
        poller = Poller(kind, database18, redis_url, "poll")
        late.execute(write)
        connection.execute(write)
        poller.poll()
        late.commit()
        poller.poll()
        poller.close()
        assert int(client.hget("poll", "b") or 0) == 2 - lost
