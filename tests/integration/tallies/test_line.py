"""Commands over one connection, for as long as it lasts, and several of them at one moment."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cdc_counter.cancellation import end
from cdc_counter.embedded import RedisServer
from cdc_counter.soak.proxy import FaultProxy
from cdc_counter.tallies.connection import command
from cdc_counter.tallies.line import Line
from tests.rig.eventually import eventually
from tests.rig.redis import ask


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.port) as running:
        yield running


@pytest.fixture
async def impatient(proxy: FaultProxy) -> AsyncIterator[Redis]:
    opened = Redis(port=proxy.port, protocol=2, socket_timeout=0.2, retry=Retry(NoBackoff(), 0))
    yield opened
    await opened.aclose()


@pytest.fixture
def line(impatient: Redis) -> Line:
    return Line(impatient)


async def test_a_line_keeps_its_connection_also_after_an_error_reply(line: Line) -> None:
    number = await line.execute_command("CLIENT", "ID")
    with pytest.raises(ResponseError):
        await line.execute_command("NO-SUCH-COMMAND")
    assert await line.execute_command("CLIENT", "ID") == number


async def test_a_lost_connection_is_replaced_for_the_next_command(line: Line, proxy: FaultProxy) -> None:
    number = await line.execute_command("CLIENT", "ID")
    proxy.cut_after(0, "from")
    with pytest.raises(RedisConnectionError):
        await line.execute_command("PING")
    proxy.pass_on()
    assert await line.execute_command("CLIENT", "ID") > number


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced_at_once(
    line: Line, server: RedisServer
) -> None:
    number = await line.execute_command("CLIENT", "ID")
    ask(server.port, "CLIENT", "KILL", "ID", number)
    await eventually(line._idle.can_read, "the end has come")
    assert await line.execute_command("CLIENT", "ID") > number


async def test_two_at_once_get_their_own_replies(line: Line) -> None:
    await line.execute_command("PING")
    replies = await asyncio.gather(*(line.execute_command("ECHO", str(number)) for number in range(20)))
    assert replies == [str(number).encode() for number in range(20)]


async def test_a_transaction_is_one_moment(line: Line, server: RedisServer) -> None:
    async def count() -> None:
        while True:
            await command(other, "INCR", "counted")

    other = Redis(port=server.port, protocol=2)
    counting = asyncio.ensure_future(count())
    # So long that it comes in pieces, between which the server serves others.
    long = "x" * 3_000_000
    for _ in range(5):
        first, _, second = await line.transaction(("GET", "counted"), ("ECHO", long), ("GET", "counted"))
        assert first == second
    assert not counting.done(), "nobody counted meanwhile"
    assert int(second) > 0
    await end([counting])
    await other.aclose()


@pytest.mark.parametrize(
    ("refused", "says"), [(("NO-SUCH-COMMAND",), "unknown command"), (("LLEN", "text"), "WRONGTYPE")]
)
async def test_what_is_refused_in_a_transaction_is_said_and_its_other_replies_are_nobody_elses(
    line: Line, refused: tuple[str, ...], says: str
) -> None:
    await line.execute_command("SET", "text", "7")
    number = await line.execute_command("CLIENT", "ID")
    with pytest.raises(ResponseError, match=says):
        await line.transaction(("ECHO", "first"), refused, ("ECHO", "last"))
    assert await line.execute_command("CLIENT", "ID") == number


async def test_a_late_reply_is_nobody_elses(line: Line, proxy: FaultProxy) -> None:
    await line.execute_command("PING")
    proxy.hold()
    with pytest.raises(RedisTimeoutError, match=r"no reply within 0\.2 s"):
        await line.execute_command("ECHO", "late")
    proxy.release()
    assert await line.execute_command("ECHO", "next") == b"next"


async def test_connections_go_back_as_patient_as_they_came(line: Line, impatient: Redis, proxy: FaultProxy) -> None:
    await asyncio.gather(*(line.execute_command("PING") for _ in range(2)))
    proxy.hold()
    # Of the two one was given back: without a time-out of its own this would wait for ever.
    async with asyncio.timeout(5):
        with pytest.raises(RedisTimeoutError):
            await command(impatient, "PING")
