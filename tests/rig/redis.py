"""Emptying a Redis without a client library, so that the rig does not depend on what it tests."""

import socket


def flush(port: int) -> None:
    """FLUSHALL and SCRIPT FLUSH on the Redis of this port."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        stream = connection.makefile("rwb", buffering=0)
        for command in (b"FLUSHALL\r\n", b"SCRIPT FLUSH\r\n"):
            stream.write(command)
            answer = stream.readline()
            if not answer.startswith(b"+OK"):
                raise AssertionError(f"{command!r} was answered {answer!r}")
