"""Only receives: `python -m benchmarks.latency.observers.floor DSN NAME BASE [REDIS_PORT]`.

NAME is that of the slot and of the publication. Nothing can be sooner that reads the WAL in Python: it decodes nothing
before it is told to end. With a Redis, it sends one command there for all that has come, and has seen it once the
reply is there: nothing can be sooner that keeps it in Redis.
"""

import select
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

import psycopg
import redis
from psycopg import pq

from benchmarks.latency.observers.obeying import STEP_SECONDS, obey
from benchmarks.latency.sightings import Sighting
from cdc_counter.core.frames import StandbyStatusUpdate, XLogData, parse_frame
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.pgoutput import Begin, Commit, Insert, parse_message


class Floor:
    """One replication connection while it is watching, its slot moved to the end of what it has seen afterwards."""

    def __init__(self, dsn: str, name: str, base: int, redis_port: int | None = None) -> None:
        self._dsn = dsn
        self._name = name
        self._redis = None if redis_port is None else redis.Redis(port=redis_port, protocol=2)
        self._numbers: dict[int, int] = defaultdict(lambda: base)
        self._confirmed = Lsn(0)
        self._noted: list[tuple[int, bytes]] = []

    def begin(self) -> None:
        """Start streaming."""
        self._noted.clear()
        self._connection = psycopg.connect(self._dsn, autocommit=True, replication="database")
        self._pg = self._connection.pgconn
        options = f"(proto_version '1', publication_names '{self._name}')"
        result = self._pg.exec_(f'START_REPLICATION SLOT "{self._name}" LOGICAL 0/0 {options}'.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise RuntimeError(f"no stream: {self._pg.get_error_message()}")
        self._receive(STEP_SECONDS)

    def step(self) -> None:
        """Wait for messages."""
        self._receive(STEP_SECONDS)

    def end(self) -> Iterator[Sighting]:
        """Decode; confirm every transaction, so that none comes again."""
        known = False
        for at, data in self._noted:
            frame = parse_frame(data)
            match parse_message(frame.payload) if isinstance(frame, XLogData) else None:
                case Begin(commit_lsn=commit_lsn):
                    # A commit record that starts before the end of another one ends there, or earlier.
                    known = commit_lsn < self._confirmed
                case Insert(values=(_, room, *_)) if room is not None and not known:
                    self._numbers[int(room)] += 1
                    yield Sighting(int(room), self._numbers[int(room)], at)
                case Commit(end_lsn=end_lsn):
                    self._confirmed = max(self._confirmed, end_lsn)
        end = self._confirmed
        self._pg.put_copy_data(StandbyStatusUpdate(end, end, end).encode(time.time()))
        self._pg.flush()
        self._connection.close()

    def _receive(self, seconds: float) -> None:
        if not select.select([self._pg.socket], [], [], seconds)[0]:
            return
        self._pg.consume_input()
        came = []
        while (message := self._pg.get_copy_data(1))[0] > 0:
            came.append(bytes(message[1]))
        if self._redis is not None:
            self._redis.incrby(self._name, len(came))
        at = time.monotonic_ns()
        self._noted += [(at, data) for data in came]


if __name__ == "__main__":
    where, name, *numbers = sys.argv[1:]
    obey(Floor(where, name, *map(int, numbers)))
