"""Under full load every tally is what a temporary slot and a recount by hand say it must be."""

from collections import Counter
from pathlib import Path

import psycopg
import pytest
import redis

from cdc_counter.embedded.child import free_port
from tests.acceptance.second_oracle import judge, wait_for_traffic
from tests.acceptance.test_exact import write_config
from tests.acceptance.workload import COUNTERS, SCHEMA, Writers
from tests.rig.daemon import Daemon, command
from tests.rig.tallies import wait_applied
from tests.rig.warm import WARM_PROGRAM

CYCLES = 12


@pytest.mark.programme15
def test_tallies_equal_what_a_temporary_slot_says(database: str, redis_url: str, tmp_path: Path) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
    port = free_port()
    config = write_config(tmp_path / "c.toml", database, redis_url, port, COUNTERS)
    assert command("init", config=config).returncode == 0
    later = 0
    with Daemon(config, tmp_path / "log", port=port, program=WARM_PROGRAM).start().wait_ready():
        with Writers(database, count=2, seed=3) as writers:
            for _ in range(CYCLES):
                wait_for_traffic(0.3)
                judgement = judge(database, redis_url)
                assert judgement.wrong == {}
                assert judgement.keys > 100
                later += judgement.later
        assert Counter(writers.unexpected).most_common(5) == []
        # Otherwise nothing was compared that the snapshot did not hold already.
        assert later > CYCLES
        wait_applied(database, redis_url)
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            client.hincrby("cdc:tally:ticket_weight:-", "-", 3)
        changed = judge(database, redis_url)
        assert [tally - expected for tally, expected in changed.wrong.values()] == [3]
        assert list(changed.wrong) == [("ticket_weight", "-", "-")]
