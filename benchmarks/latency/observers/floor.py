"""Only receives: `python -m benchmarks.latency.observers.floor DSN SLOT PUBLICATION BASE`.

Nothing can be sooner that reads the WAL in Python: it decodes nothing before it is told to end.
"""

import select
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

import psycopg
from psycopg import pq

from benchmarks.latency.observers.obeying import STEP_SECONDS, obey
from benchmarks.latency.sightings import Sighting
from cdc_counter.core.frames import StandbyStatusUpdate, XLogData, parse_frame
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.pgoutput import Begin, Commit, Insert, parse_message


class Floor:
    """One replication connection while it is watching, its slot moved to the end of what it has seen afterwards."""

    def __init__(self, dsn: str, slot: str, publication: str, base: int) -> None:
        self._dsn = dsn
        self._slot = slot
        self._publication = publication
        self._numbers: dict[int, int] = defaultdict(lambda: base)
        self._confirmed = Lsn(0)
        self._noted: list[tuple[int, bytes]] = []

    def begin(self) -> None:
        """Start streaming."""
        self._noted.clear()
        self._connection = psycopg.connect(self._dsn, autocommit=True, replication="database")
        self._pg = self._connection.pgconn
        options = f"(proto_version '1', publication_names '{self._publication}')"
        result = self._pg.exec_(f'START_REPLICATION SLOT "{self._slot}" LOGICAL 0/0 {options}'.encode())
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
        at = time.monotonic_ns()
        while True:
            size, data = self._pg.get_copy_data(1)
            if size <= 0:
                return
            self._noted.append((at, bytes(data)))


if __name__ == "__main__":
    where, slot, publication, base = sys.argv[1:]
    obey(Floor(where, slot, publication, int(base)))
