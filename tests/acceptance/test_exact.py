"""Every tally equals an honest recount, whatever the writers do and however often the daemon is killed."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from cdc_counter.embedded import PostgresServer, RedisServer
from cdc_counter.embedded.child import free_port
from tests.acceptance.workload import COUNTERS, SCHEMA, Writers, honest_recount
from tests.rig.daemon import Daemon, command
from tests.rig.tallies import all_tallies, differences, wait_applied
from tests.rig.warm import WARM_PROGRAM


def write_config(path: Path, dsn: str, redis_url: str, port: int, counters: str = COUNTERS, extra: str = "") -> Path:
    path.write_text(
        f'[postgres]\ndsn = "{dsn}"\n[redis]\nurl = "{redis_url}"\n[gateway]\nport = {port}\n{extra}\n{counters}',
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("seconds", [30, pytest.param(60, marks=pytest.mark.programme)])
def test_tallies_equal_an_honest_recount_after_mixed_load_and_kills(
    postgres: PostgresServer,
    database: str,
    redis_url: str,
    tmp_path: Path,
    seconds: int,
    record_property: Callable[[str, object], None],
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
    port = free_port()
    # Small batches and parts, so that large statements are cut into many script calls.
    config = write_config(tmp_path / "c.toml", database, redis_url, port, extra="[stream]\nmax_batch_keys = 500\n")
    chance = random.Random(5)
    kills = 0
    daemon = Daemon(config, tmp_path / "log", port=port, program=WARM_PROGRAM)
    with Writers(database, count=4, seed=postgres.version[0]) as writers, daemon:
        installed = command("init", config=config)
        assert installed.returncode == 0, installed.stderr
        before = time.monotonic()
        daemon.start()
        while time.monotonic() - before < seconds or kills < seconds // 6:
            time.sleep(chance.uniform(0.5, 5.0))
            daemon.kill()
            kills += 1
            daemon.start()
    assert Counter(writers.unexpected).most_common(5) == []
    with_rights = {name: count for name, count in writers.done.items() if count}
    assert len(with_rights) >= 25, f"the workload did too little: {with_rights}"
    with daemon:
        if not daemon.running:
            daemon.start()
        daemon.wait_ready()
        wait_applied(database, redis_url)
        tallies, truth = all_tallies(redis_url), honest_recount(database)
        assert len(truth) > 500
        assert differences(tallies, truth) == {}
        assert daemon.terminate() == 0
    record_property("operations", sum(writers.done.values()))
    record_property("kills", kills)
    record_property("keys", len(truth))


@pytest.mark.parametrize("postgres", ["18"], indirect=True)
def test_pgbench_tallies_equal_an_honest_recount(
    postgres: PostgresServer, database: str, redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    counters = """
[[counter]]
name = "history_by_teller"
table = "pgbench_history"
scope = "bid"
by = "tid"
[[counter]]
name = "delta_by_branch"
table = "pgbench_history"
by = "bid"
measure = "sum(delta)"
[[counter]]
name = "accounts_by_branch"
table = "pgbench_accounts"
by = "bid"
"""
    honest = {
        "history_by_teller": "SELECT bid::text, tid::text, count(*) FROM pgbench_history GROUP BY bid, tid",
        "delta_by_branch": "SELECT '-', bid::text, sum(delta) FROM pgbench_history GROUP BY bid",
        "accounts_by_branch": "SELECT '-', bid::text, count(*) FROM pgbench_accounts GROUP BY bid",
    }
    pgbench = str(postgres.bin_dir / "pgbench")
    port = free_port()
    config = write_config(tmp_path / "c.toml", database, redis_url, port, counters)
    run_program(pgbench, "-i", "-q", "-s", "2", database)
    installed = command("init", config=config)
    assert installed.returncode == 0, installed.stderr
    with Daemon(config, tmp_path / "log", port=port, program=WARM_PROGRAM).start().wait_ready() as daemon:
        run_program(pgbench, "-n", "-c", "4", "-T", "8", database)
        wait_applied(database, redis_url)
        truth = {}
        with psycopg.connect(database) as connection:
            for counter, query in honest.items():
                for scope, bucket, value in connection.execute(query.encode()):
                    if value:
                        truth[counter, scope, bucket] = int(value)
        assert sum(v for (c, _, _), v in truth.items() if c == "accounts_by_branch") == 200_000
        assert sum(v for (c, _, _), v in truth.items() if c == "history_by_teller") > 100
        assert differences(all_tallies(redis_url), truth) == {}
        assert daemon.terminate() == 0


def run_program(*words: str) -> None:
    import subprocess  # noqa: PLC0415 - only here

    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
