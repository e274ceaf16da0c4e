"""One writer's session: prepared statements, each a transaction of its own, and what its server process has used.

Statements are pipelined in libpq, so that the server process always has the next one: what is measured is neither the
client nor the waking up.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg
from psycopg import pq

_AHEAD: Final = 50
"""Statements on their way at once: they and their answers fit into the sockets' buffers."""

Row = Sequence[bytes]


class Session:
    """A connection to the server's superuser database. A context manager."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, options="-c synchronous_commit=off")
        self._pg = self._connection.pgconn
        self._pid = self._pg.backend_pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    @property
    def cpu_seconds(self) -> float:
        """What the server process has used of a core so far, user and system, in nanoseconds' steps."""
        return int(Path(f"/proc/{self._pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9

    @property
    def wal_position(self) -> int:
        """Bytes of WAL inserted by everybody so far."""
        return int(self.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def value(self, statement: str) -> str:
        """Run one statement that gives one value."""
        row = self._connection.execute(statement.encode()).fetchone()
        if row is None:
            raise RuntimeError(f"no row from {statement}")
        return str(row[0])

    def run(self, statement: str) -> None:
        """Run one statement as a transaction of its own."""
        self._connection.execute(statement.encode())

    def prepare(self, name: str, statement: str) -> None:
        """Prepare a statement for `run_each`."""
        self._expect(self._pg.prepare(name.encode(), statement.encode()), pq.ExecStatus.COMMAND_OK)

    def run_each(self, name: str, rows: Sequence[Row]) -> None:
        """Run a prepared statement once for each row of parameters."""
        self._pg.enter_pipeline_mode()
        for first in range(0, len(rows), _AHEAD):
            some = rows[first : first + _AHEAD]
            for row in some:
                self._pg.send_query_prepared(name.encode(), row)
                self._pg.pipeline_sync()
            for _ in some:
                self._expect(self._pg.get_result(), pq.ExecStatus.COMMAND_OK)
                self._pg.get_result()  # None: the end of the statement's results
                self._expect(self._pg.get_result(), pq.ExecStatus.PIPELINE_SYNC)
        self._pg.exit_pipeline_mode()

    def _expect(self, result: pq.abc.PGresult | None, status: pq.ExecStatus) -> None:
        if result is None or result.status != status:
            raise RuntimeError(f"expected {status.name}: {self._pg.get_error_message()}")
