"""A server that is being stopped never waits for us, whatever Redis does: as fast as with nobody connected."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from cdc_counter.core.lsn import Lsn
from cdc_counter.embedded import PostgresServer, RedisServer
from tests.fault.deployment import Deployment, Traffic, wait_said
from tests.fault.link import fault_link
from tests.rig.databases import fresh_database
from tests.rig.eventually import eventually_sync
from tests.rig.servers import postgres15_bin_dir
from tests.rig.tallies import end_of_wal, watermark

LONG = "wal_sender_timeout_seconds = 600"
"""The server gives up on a silent client only after this: whoever is waited for is waited for until the test fails."""

VERSIONS = [pytest.param(False, id="postgres18"), pytest.param(True, id="postgres15", marks=pytest.mark.postgres15)]


@contextmanager
def own_server(*, old: bool) -> Iterator[PostgresServer]:
    """Start a server that no other test needs running."""
    with PostgresServer(bin_dir=postgres15_bin_dir() if old else None, fsync=False) as server:
        yield server


def has_sent(deployment: Deployment, lsn: Lsn) -> bool:
    """Say whether the walsender has sent everything up to there."""
    rows = deployment.sql(
        "SELECT sent_lsn >= %s::pg_lsn FROM pg_stat_replication AS stat"
        "  JOIN pg_replication_slots AS slot ON slot.active_pid = stat.pid WHERE slot_name = 'cdc_counter'",
        str(lsn),
    )
    return rows == [(True,)]


def stop_in_time(server: PostgresServer) -> None:
    """Stop it fast; NotReadyError when somebody holds it up for a minute."""
    server.stop("fast", timeout=60)


@pytest.mark.programme15
@pytest.mark.parametrize("old", VERSIONS)
def test_a_fast_stop_does_not_wait_for_redis(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, old: bool
) -> None:
    """A call to Redis has no answer, commits are received and not applied, and the stand-by looks on."""
    with (
        own_server(old=old) as server,
        fresh_database(server) as dsn,
        fault_link(redis_server.port) as link,
        Deployment(dsn, f"redis://127.0.0.1:{link.port}/0", tmp_path) as deployment,
    ):
        config = deployment.write_config("long", postgres=LONG)
        deployment.init(config=config)
        one, two = (deployment.daemon(name, config) for name in ("one", "two"))
        one.start().wait_ready()
        two.start()
        wait_said(two, "standing by")
        with Traffic(dsn) as traffic:
            traffic.wait_for_more()
            link.hold()
            traffic.wait_for_more()
            # The walsender has sent what nobody will confirm.
            sent = end_of_wal(dsn)
            eventually_sync(partial(has_sent, deployment, sent), "everything is sent", deadline=60)
            stop_in_time(server)
            server.start()
            link.pass_on()
            traffic.wait_for_more()
        goal = end_of_wal(dsn)
        eventually_sync(lambda: watermark(redis_url) >= goal, "it goes on", deadline=60)
        deployment.redis_url = redis_url
        deployment.assert_exact()
        assert one.running
        assert two.running


@pytest.mark.programme
@pytest.mark.parametrize("old", VERSIONS)
def test_stops_and_crashes_while_it_streams_lose_nothing(redis_url: str, tmp_path: Path, old: bool) -> None:
    with (
        own_server(old=old) as server,
        fresh_database(server) as dsn,
        Deployment(dsn, redis_url, tmp_path) as deployment,
    ):
        config = deployment.write_config("long", postgres=LONG)
        deployment.init(config=config)
        one, two = (deployment.daemon(name, config) for name in ("one", "two"))
        one.start().wait_ready()
        two.start()
        epoch = deployment.epoch()
        with Traffic(dsn, 4) as traffic:
            for number, end in enumerate((stop_in_time, lambda s: s.stop("immediate"), PostgresServer.kill) * 2):
                traffic.wait_for_more()
                end(server)
                server.start()
                eventually_sync(deployment.walsender, f"somebody streams after stop {number}", deadline=60)
            traffic.wait_for_more()
        deployment.assert_exact()
        assert deployment.epoch() == epoch
        assert one.running
        assert two.running
