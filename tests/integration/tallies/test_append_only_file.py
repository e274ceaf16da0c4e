"""An append-only file that a crash cut off anywhere: what is left is a state that there was; the rest is applied."""

import pytest
from redis.asyncio import Redis

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outcome import Applied
from cdc_counter.embedded import RedisServer
from cdc_counter.tallies.connection import command, connect
from cdc_counter.tallies.store import TallyStore
from tests.integration.tallies.conftest import PREFIX, begin, everything, group, moves

_STEPS = 6
_FILE = "appendonly.aof"
"""Where Redis 6.2 has it, whole."""


async def apply(store: TallyStore, number: int) -> None:
    """Apply a step of several keys, of sums that vanish, a note and, in one of them, an entry of the journal."""
    groups = [group({"7": number, "8": -1}), group({"7": 1}, "43"), group({"9": 1 if number % 2 else -1}, "44")]
    outcome = await store.apply(
        "e1",
        moves(number - 1, number),
        groups,
        note=str(number),
        surplus_notes=number % 2,
        # The journal's ids are times, so that a step with one can't be made again as it was.
        repair="{}" if number == _STEPS - 2 else "",
    )
    assert outcome == Applied()


async def history(server: RedisServer, client: Redis) -> dict[int, dict[bytes, object]]:
    """Apply the steps; returns the length of the file after each, with everything that the server then holds."""
    store = TallyStore(client, PREFIX, 20_000)
    await begin(store)
    states = {}
    for number in range(1, _STEPS + 1):
        await apply(store, number)
        states[(server.data_dir / _FILE).stat().st_size] = await everything(client)
    return states


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.programme, id="every"), 53])
async def test_a_file_cut_at_any_byte_holds_a_state_that_there_was(step: int) -> None:
    with RedisServer(settings={"appendfsync": "always"}) as server, RedisServer(settings={"appendonly": "no"}) as other:
        client, reading = connect(server.url), connect(other.url)
        try:
            states = await history(server, client)
            written = (server.data_dir / _FILE).read_bytes()
            lengths = sorted(states)
            assert lengths[-1] == len(written)
            # From the end of the third step on: three whole script calls, and every end of one.
            for cut in sorted(
                {*range(lengths[2], len(written), step), *lengths[2:], *(end - 1 for end in lengths[3:])}
            ):
                (other.data_dir / _FILE).write_bytes(written[:cut])
                await command(reading, "DEBUG", "LOADAOF")
                assert await everything(reading) == states[max(length for length in lengths if length <= cut)], cut
        finally:
            await client.aclose()
            await reading.aclose()


async def test_a_server_that_lost_the_end_of_its_file_is_brought_to_where_it_was() -> None:
    with RedisServer(settings={"appendfsync": "always"}) as server:
        client = connect(server.url)
        try:
            states = await history(server, client)
            lengths = sorted(states)
            written = (server.data_dir / _FILE).read_bytes()
            middle = (lengths[-2] + lengths[-1]) // 2
            for cut in (lengths[-1] - 1, middle, lengths[-2] + 1, lengths[-2], lengths[-2] - 1):
                server.kill()
                await client.connection_pool.disconnect()
                (server.data_dir / _FILE).write_bytes(written[:cut])
                server.start()
                store = TallyStore(client, PREFIX, 20_000)
                stored = await store.load()
                assert stored is not None
                left = lengths.index(max(length for length in lengths if length <= cut)) + 1
                assert stored.watermark.lsn == Lsn(left)
                for number in range(left + 1, _STEPS + 1):
                    await apply(store, number)
                assert await everything(client) == states[lengths[-1]]
        finally:
            await client.aclose()
