"""Writers at a fixed rate, whatever becomes of what they wrote: `python -m benchmarks.latency.writing`, an open loop.

One process and some connections, each pipelined in libpq: a commit is sent when it is due and not when the one before
has returned. A room belongs to one connection, so its commits are in order. Each line that it is told is a `Task`.
"""

import json
import select
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

import psycopg
from psycopg import pq

from benchmarks.latency.sightings import Commit
from benchmarks.latency.task import Task

CONNECTIONS: Final = 8
_MOST_WAITING: Final = 100
"""Commits on their way on one connection: they and their answers fit into the sockets' buffers. Beyond it is late."""


class Connection:
    """A pipelined connection; `waiting` are the commits that have not returned."""

    def __init__(self, dsn: str, table: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._pg = self._connection.pgconn
        self._pg.prepare(b"add", f"INSERT INTO {table} (room, body) VALUES ($1, 'What somebody has said')".encode())
        self._pg.enter_pipeline_mode()
        self.waiting: deque[tuple[int, int, int]] = deque()

    def fileno(self) -> int:
        """For select."""
        return int(self._pg.socket)

    def send(self, room: int, number: int, due: int) -> None:
        """Send one commit."""
        self._pg.send_query_prepared(b"add", [str(room).encode()])
        self._pg.pipeline_sync()
        self.waiting.append((room, number, due))

    def returned(self) -> list[Commit]:
        """Read what has come."""
        self._pg.consume_input()
        commits = []
        while self.waiting and not self._pg.is_busy():
            result = self._pg.get_result()
            # A commit is over with the answer to Sync: what comes before it, and None between the two, says nothing.
            if result is not None and result.status == pq.ExecStatus.PIPELINE_SYNC:
                commits.append(Commit(*self.waiting.popleft(), time.monotonic_ns()))
            elif result is not None and result.status != pq.ExecStatus.COMMAND_OK:
                raise RuntimeError(f"a commit failed: {self._pg.get_error_message()}")
        return commits


class Writers:
    """All connections to one table."""

    def __init__(self, task: Task) -> None:
        self._connections = [Connection(task.dsn, task.table) for _ in range(CONNECTIONS)]
        self._numbers = [task.base] * task.rooms
        self._room = 0

    def run(self, task: Task) -> list[Commit]:
        """Do it."""
        probes = None
        if task.probes:
            probes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        commits: list[Commit] = []
        began, sent, wanted = time.monotonic_ns(), 0, round(task.rate * task.seconds)
        while len(commits) < wanted:
            sent = self._send_due(task, began, sent, wanted)
            next_due = began + int(sent / task.rate * 1e9)
            patience = max(0.0, (next_due - time.monotonic_ns()) / 1e9) if sent < wanted else 1.0
            for connection in select.select(self._connections, [], [], patience)[0]:
                for commit in connection.returned():
                    commits.append(commit)
                    if probes is not None and len(commits) % task.probe_every == 0:
                        # Who still looks for the last few is spared this one: the writers wait for nobody.
                        with suppress(BlockingIOError):
                            probes.sendto(f"{commit.room} {commit.number}".encode(), task.probes)
        return commits

    def _send_due(self, task: Task, began: int, sent: int, wanted: int) -> int:
        """Send what is due and has place; return how many have been sent."""
        now = time.monotonic_ns()
        while sent < wanted and (due := began + int(sent / task.rate * 1e9)) <= now:
            connection = self._connections[self._room % CONNECTIONS]
            if len(connection.waiting) >= _MOST_WAITING:
                break
            self._numbers[self._room] += 1
            connection.send(self._room, self._numbers[self._room], due)
            self._room = (self._room + 1) % task.rooms
            sent += 1
        return sent


def main() -> None:
    """Obey."""
    known: dict[str, Writers] = {}
    _say("ready")
    for line in sys.stdin:
        task = Task(**json.loads(line))
        if task.table not in known:
            known[task.table] = Writers(task)
        commits = known[task.table].run(task)
        Path(task.file).write_text(json.dumps(commits), encoding="utf-8")
        _say("written")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
