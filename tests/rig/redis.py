"""Single commands to a Redis of the rig, past everything that the product does with replies, errors and connections."""

import socket
from typing import Any

import redis


def flush(port: int) -> None:
    """FLUSHALL and SCRIPT FLUSH on the Redis of this port."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        stream = connection.makefile("rwb", buffering=0)
        for command in (b"FLUSHALL\r\n", b"SCRIPT FLUSH\r\n"):
            stream.write(command)
            answer = stream.readline()
            if not answer.startswith(b"+OK"):
                raise AssertionError(f"{command!r} was answered {answer!r}")


def ask(port: int, *words: Any) -> Any:
    """Send one command to the server of this port, a Sentinel too; the reply is as it came, in bytes."""
    with redis.Redis(port=port, protocol=2, socket_timeout=30) as client:
        # The bare connection: what the library makes of replies differs from version to version.
        connection = client.connection_pool.get_connection()
        try:
            connection.send_command(*words)
            return connection.read_response()
        finally:
            client.connection_pool.release(connection)
