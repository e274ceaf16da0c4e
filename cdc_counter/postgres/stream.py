"""The connection that streams: CopyBoth over psycopg's pq layer, one slot, one publication.

Protocol conversation only: bytes of CopyData come out, status updates go in. What the bytes mean, and which positions
may be told to the server, is decided elsewhere. The psycopg connection is used as such until START_REPLICATION; from
then on only its `pgconn` is. Source: the PostgreSQL manual, "Streaming Replication Protocol" and libpq's "Functions
Associated with the COPY Command".
"""

import asyncio
import logging
from typing import Any, Final

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection, pq
from psycopg.rows import dict_row

from cdc_counter.core.frames import StandbyStatusUpdate
from cdc_counter.core.lifecycle import ServerFacts
from cdc_counter.core.lsn import Lsn
from cdc_counter.errors import BusyError, CdcCounterError, ReseedNeededError, UndecodableError, UnreachableError
from cdc_counter.postgres.connection import translated_errors
from cdc_counter.postgres.facts import server_facts
from cdc_counter.postgres.flow import ENOUGH, Flow

_log = logging.getLogger(__name__)

_COPY_DONE: Final = -1
_OBJECT_NOT_IN_PREREQUISITE_STATE: Final = "55000"
_INTERNAL: Final = "XX"
"""The class of errors that only a defect, or damage, makes."""


class ReplicationStream:
    """One replication session. Not to be shared between tasks, but for `send`, which may be called beside `read`."""

    def __init__(self, connection: AsyncConnection[Any], slot: str, publication: str, outbox: str) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._slot = slot
        self._publication = publication
        self._outbox = outbox
        self._rows_dropped: str | None = None
        self._flow = Flow(connection.pgconn.socket)
        connection.add_notice_handler(self._on_notice)

    @classmethod
    async def open(cls, conninfo: str, *, slot: str, publication: str, outbox: str) -> "ReplicationStream":
        """Connect in replication mode; raises UnreachableError."""
        with translated_errors("opening the replication connection"):
            connection = await AsyncConnection.connect(
                conninfo,
                autocommit=True,
                replication="database",
                # The extended protocol is not to be had in replication mode, so values are bound on this side.
                cursor_factory=AsyncClientCursor,
                row_factory=dict_row,
            )
        return cls(connection, slot, publication, outbox)

    async def facts(self, stored_timeline: int | None) -> ServerFacts:
        """Ask this very connection who the server is and how slot and publication stand."""
        with translated_errors("asking the server for its state"):
            return await server_facts(
                self._connection, self._slot, self._publication, self._outbox, stored_timeline=stored_timeline
            )

    async def start(self, at: Lsn) -> None:
        """Start streaming. Raises BusyError when somebody else streams the slot."""
        # Names are restricted to [a-z0-9_] by the configuration; replication commands take no parameters.
        command = (
            f'START_REPLICATION SLOT "{self._slot}" LOGICAL {at} '
            f"(proto_version '1', publication_names '{self._publication}', messages 'true')"
        )
        with translated_errors(f"starting slot {self._slot!r}"):
            self._pgconn.send_query(command.encode())
            self._pgconn.flush()
            while self._pgconn.is_busy():
                await self._readable()
                self._pgconn.consume_input()
            result = self._pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise self._failure(result)

    async def read(self, limit: int) -> list[bytes]:
        """Wait for CopyData and return at least one payload, no more once they have `limit` bytes.

        Raises UnreachableError when the connection ends, ReseedNeededError when the server dropped rows.
        """
        payloads: list[bytes] = []
        size = 0
        with translated_errors("streaming"):
            while True:
                size += self._take(payloads, limit - size)
                if size < min(limit, ENOUGH):
                    # libpq reads 16 kB at a time: what else has come is asked for before the event loop is. Not for
                    # ever: a walsender at work has always sent a little more, which is not worth the system call.
                    self._pgconn.consume_input()
                    more = self._take(payloads, limit - size)
                    size += more
                    if more:
                        continue
                if self._rows_dropped is not None:
                    raise ReseedNeededError(f"the server dropped rows: {self._rows_dropped}")
                if payloads:
                    self._flow.read(size)
                    return payloads
                await self._readable(self._flow.patience)
                self._flow.waited()

    def _take(self, payloads: list[bytes], limit: int) -> int:
        """Move the payloads that libpq holds, no more once they have `limit` bytes; return their size."""
        size = 0
        get = self._pgconn.get_copy_data
        while size < limit:
            count, data = get(1)
            if count > 0:
                payloads.append(data.tobytes())
                size += count
            elif count == 0:
                break
            else:
                raise self._failure(self._pgconn.get_result() if count == _COPY_DONE else None)
        return size

    def send(self, update: StandbyStatusUpdate, now: float) -> None:
        """Tell the server how far we are; `now` is unix seconds. Raises UnreachableError."""
        with translated_errors("confirming"):
            self._pgconn.put_copy_data(update.encode(now))
            self._pgconn.flush()

    async def finish(self) -> None:
        """End the copy in an orderly way, so that the server has read all that was sent to it, and close."""
        self._flow.waited()
        with translated_errors("ending the stream"):
            self._pgconn.put_copy_end()
            self._pgconn.flush()
            # What still comes is not acknowledged and will be sent again.
            while (count := self._pgconn.get_copy_data(1)[0]) >= 0:
                if count == 0:
                    await self._readable()
                    self._pgconn.consume_input()
        await self.close()

    async def close(self) -> None:
        """Close the connection, in whatever state it is."""
        self._flow.close()
        await self._connection.close()

    def _on_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        # PostgreSQL 18 answers a missing publication with this warning and goes on without its rows.
        if diagnostic.severity_nonlocalized == "WARNING" and diagnostic.sqlstate == _OBJECT_NOT_IN_PREREQUISITE_STATE:
            self._rows_dropped = diagnostic.message_primary
        else:
            _log.info("notice from the server: %s", diagnostic.message_primary)

    def _failure(self, result: pq.abc.PGresult | None) -> CdcCounterError:
        if result is None or result.status != pq.ExecStatus.FATAL_ERROR:
            status = "" if result is None else f" ({pq.ExecStatus(result.status).name})"
            return UnreachableError(f"the server ended the stream of slot {self._slot!r}{status}")
        message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"unknown error").decode(errors="replace")
        sqlstate = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = f"stream of slot {self._slot!r}: {message} [{sqlstate}]"
        match sqlstate:
            case "55006":
                return BusyError(text, hint="another consumer streams it; this one waits as its stand-by")
            case "42704" if self._publication in message:
                return ReseedNeededError(text)
            case _ if sqlstate.startswith(_INTERNAL):
                return UndecodableError(text)
            case _:
                # The next connection asks for the slot's state and decides by that, not by a message.
                return UnreachableError(text)

    async def _readable(self, patience: float | None = None) -> None:
        """Wait until the socket has something to read, at most `patience` seconds."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        descriptor = self._pgconn.socket
        loop.add_reader(descriptor, _resolve, ready)
        timer = None if patience is None else loop.call_later(patience, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)
            if timer is not None:
                timer.cancel()


def _resolve(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
