"""While a reader is behind the kernel lets bytes pile up; as soon as it has caught up each of them wakes it."""

import select
import socket
from collections.abc import Iterator

import pytest

from cdc_counter.postgres.flow import Flow


@pytest.fixture
def link() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give the two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as reader:
        writer, _ = server.accept()
        with writer:
            writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield reader, writer


def is_readable(reader: socket.socket, seconds: float) -> bool:
    return bool(select.select([reader], [], [], seconds)[0])


def test_reader_that_is_behind_sleeps_until_much_has_come(link: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = link
    flow = Flow(reader.fileno())
    before = flow.patience
    flow.read(65_536)
    assert (before is None, flow.patience is None) == (True, False)
    writer.sendall(b"x" * 100)
    assert not is_readable(reader, 0.1)
    writer.sendall(b"x" * 100_000)
    assert is_readable(reader, 5)
    flow.close()


def test_reader_that_has_caught_up_is_woken_by_whatever_comes(link: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = link
    flow = Flow(reader.fileno())
    writer.sendall(b"x")
    assert is_readable(reader, 5)
    flow.read(65_536)
    assert not is_readable(reader, 0)
    flow.waited()
    assert is_readable(reader, 5)
    flow.read(65_536)
    flow.read(200)
    assert is_readable(reader, 5)
    flow.close()


def test_end_of_the_connection_wakes_a_reader_that_is_behind(link: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = link
    flow = Flow(reader.fileno())
    flow.read(65_536)
    writer.close()
    assert is_readable(reader, 5)
    flow.close()
