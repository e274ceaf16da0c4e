"""The rig does to others what it says: a test that relies on a fault which does not happen proves nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import psycopg
import pytest
from psycopg import pq

from cdc_counter.embedded import PostgresServer
from cdc_counter.soak.proxy import FaultProxy
from tests.rig.databases import fresh_database
from tests.rig.eventually import DeadlineError, eventually

T = TypeVar("T")


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def proxy(echo_port: int) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(echo_port) as started:
        yield started


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, proxy: FaultProxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def answer(self, sent: bytes = b"x", expected: int = 1) -> bytes:
        self.writer.write(sent)
        return await self.reader.readexactly(expected)


async def test_bytes_pass_without_a_fault(proxy: FaultProxy) -> None:
    assert await (await Client.to(proxy)).answer(b"hello", 5) == b"hello"
    assert (proxy.transferred("to"), proxy.transferred("from")) == (5, 5)


async def test_held_bytes_arrive_after_release(proxy: FaultProxy) -> None:
    client = await Client.to(proxy)
    await client.answer()
    proxy.hold("from")
    answer = asyncio.create_task(client.answer())
    await eventually(lambda: _value(proxy.transferred("to")), "the server got both bytes", until=lambda n: n == 2)
    assert not answer.done()
    proxy.release()
    assert await answer == b"x"


async def test_cut_resets_the_client(proxy: FaultProxy) -> None:
    client = await Client.to(proxy)
    await client.answer()
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await client.reader.read(1)


async def test_cut_after_lets_exactly_that_many_bytes_through() -> None:
    received = asyncio.get_running_loop().create_future()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server, FaultProxy(server.sockets[0].getsockname()[1]) as proxy:
        proxy.cut_after(3, "to")
        client = await Client.to(proxy)
        client.writer.write(b"abcdef")
        assert await received == b"abc"
        with pytest.raises(ConnectionResetError):
            await client.reader.read(1)


async def test_black_hole_swallows_without_an_error(proxy: FaultProxy) -> None:
    client = await Client.to(proxy)
    await client.answer()
    proxy.black_hole("to")
    client.writer.write(b"lost")
    proxy_read = eventually(lambda: _value(client.reader.at_eof()), "an end of file", deadline=0.2)
    with pytest.raises(DeadlineError):
        await proxy_read
    assert proxy.transferred("to") == 1


async def test_refused_connections_are_reset(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        await (await Client.to(proxy)).answer()


async def test_switch_sends_new_connections_elsewhere(proxy: FaultProxy) -> None:
    async def shout(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")

    async with await asyncio.start_server(shout, "127.0.0.1", 0) as other:
        proxy.switch(other.sockets[0].getsockname()[1])
        assert await (await Client.to(proxy)).answer() == b"!"


async def test_eventually_reports_what_it_saw_last() -> None:
    with pytest.raises(DeadlineError, match="the answer; last seen: 41"):
        await eventually(lambda: _value(41), "the answer", until=lambda n: n == 42, deadline=0.05)


def test_fresh_database_leaves_no_slot_and_no_prepared_transaction(postgres: PostgresServer) -> None:
    """Not even when somebody still streams."""
    with fresh_database(postgres) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE PUBLICATION left_over")
        connection.execute("SELECT pg_create_logical_replication_slot('left_over', 'pgoutput')")
        stream = pq.PGconn.connect(f"{dsn}?replication=database".encode())
        options = b"(proto_version '1', publication_names 'left_over')"
        started = stream.exec_(b"START_REPLICATION SLOT left_over LOGICAL 0/0 " + options)
        assert started.status == pq.ExecStatus.COPY_BOTH
        connection.execute("CREATE TABLE t (k int)")
        for statement in ("BEGIN", "INSERT INTO t VALUES (1)", "PREPARE TRANSACTION 'left over'"):
            connection.execute(statement.encode())
    with psycopg.connect(postgres.dsn()) as connection:
        assert connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 't\\_%'").fetchone() == (0,)


async def _value(value: T) -> T:
    return value
