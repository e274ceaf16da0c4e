"""The order of messages in a stream: relation, begin, rows, commit. Anything else is an error that changes nothing.

Owns what a message means (which columns hold what, whose rows count); what becomes of the rows is the batcher's part.
A row whose recorded transaction is not the one that carries it was copied or restored, not captured: it is not counted
a second time.
"""

from collections.abc import Sequence
from operator import lt
from typing import assert_never

from cdc_counter.core.batch import Batcher
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.outbox import outbox_prefix, parse_notice
from cdc_counter.core.pgoutput import Begin, Commit, Ignored, Insert, LogicalMessage, Message, Relation, Truncate
from cdc_counter.core.rows import Rows, Shape, is_xid
from cdc_counter.core.xid import XID_LOW, completed
from cdc_counter.errors import CdcCounterError, ProtocolError, RefusedError


class Assembly:
    """Feeds one outbox's messages to a batcher. `near` is any transaction identifier that the server gave out lately.

    `foreign_rows` counts rows that were copied back and not counted, `strange_notices` what only looks like a notice.
    """

    def __init__(self, namespace: str, table: str, batcher: Batcher, near: int) -> None:
        self._table = (namespace, table)
        self._prefix = outbox_prefix(namespace, table)
        self._batcher = batcher
        # Of the last row: a session may last for more than 2^31 transactions, and a heartbeat comes every few seconds.
        self._near = near
        self._shapes: dict[int, Shape] = {}
        self._rows = Rows(self._shapes)
        # Partitions are described, too, although their rows come under the name of the whole outbox.
        self._others: dict[int, str] = {}
        self._begin: Begin | None = None
        self.received = Lsn(0)
        self.foreign_rows = 0
        self.strange_notices = 0

    def feed(self, message: Message) -> None:
        """Take the next message; raises ProtocolError or RefusedError when it can't stand here."""
        match message:
            case Insert():
                self._insert(message)
            case Begin():
                if self._begin is not None:
                    raise ProtocolError(f"begin of {message.xid} inside transaction {self._begin.xid}")
                self._batcher.begin(message.commit_lsn, message.commit_time, message.xid)
                self._begin = message
            case Commit():
                self._commit(message)
            case Relation():
                self._describe(message)
            case Truncate():
                raise RefusedError(
                    "the publication sends truncates of the outbox: somebody altered it",
                    hint="set it back with ALTER PUBLICATION ... SET (publish = 'insert'), then reseed",
                )
            case LogicalMessage():
                self._not_captured(message)
            case Ignored():
                pass
            case _:
                assert_never(message)

    def whole(
        self,
        commit_lsn: int,
        commit_time: float,
        xid_low: int,
        relation_oid: int,
        values: Sequence[bytes | None],
        end_lsn: int,
    ) -> bool:
        """Take a transaction of one row; False, and nothing is changed, where it has to be fed message by message."""
        shape = self._shapes.get(relation_oid)
        if shape is None or len(values) != shape.width or self._begin is not None or end_lsn <= commit_lsn:
            return False
        xid_text, deltas = values[shape.xid], values[shape.deltas]
        if xid_text is None or deltas is None or not is_xid(xid_text):
            return False
        xid, end = int(xid_text), Lsn(end_lsn)
        if xid & XID_LOW != xid_low or not self._batcher.whole(commit_lsn, commit_time, xid, deltas, end):
            return False
        self._near = xid
        self.received = max(self.received, end)
        return True

    def together(
        self,
        commit_lsns: Sequence[int],
        commit_times: Sequence[int],
        low_xids: Sequence[int],
        rows: Sequence[bytes],
        end_lsns: Sequence[int],
    ) -> bool:
        """Take transactions of one row each, in columns; `commit_times` as on the wire, `rows` with their frames.

        False, and nothing is changed, where they have to be fed message by message.
        """
        if self._begin is not None or not all(map(lt, commit_lsns, end_lsns)):
            return False
        read = self._rows.read(rows)
        if read is None:
            return False
        xids, texts = read
        if [xid & XID_LOW for xid in xids] != list(low_xids):
            return False
        if not self._batcher.together(commit_lsns, commit_times, xids, texts, end_lsns):
            return False
        self._near = xids[-1]
        self.received = max(self.received, Lsn(end_lsns[-1]))
        return True

    def idle(self, wal_end: Lsn) -> None:
        """Take a keepalive's position."""
        if self._begin is None:
            self.received = max(self.received, wal_end)
            self._batcher.idle(wal_end)

    def _insert(self, row: Insert) -> None:
        begin = self._begin
        if begin is None:
            raise ProtocolError(f"row of relation {row.relation_oid} outside a transaction")
        shape = self._shapes.get(row.relation_oid)
        if shape is None:
            raise self._not_ours(row)
        if len(row.values) != shape.width:
            raise ProtocolError(f"outbox row has {len(row.values)} columns instead of {shape.width}")
        xid_text, deltas = row.values[shape.xid], row.values[shape.deltas]
        if xid_text is None or deltas is None or not is_xid(xid_text):
            shown = "NULL" if xid_text is None else repr(xid_text[:80])
            raise ProtocolError(f"outbox row in transaction {begin.xid} has xid {shown} or no deltas")
        xid = int(xid_text)
        if xid & XID_LOW != begin.xid:
            self.foreign_rows += 1
            return
        self._near = xid
        self._batcher.row(xid, deltas)

    def _not_captured(self, message: LogicalMessage) -> None:
        """Take what a capture function says that could not reach the outbox; anything else is not for us.

        Anybody may write such a message, so it can say that counters have to be recounted, and nothing else: not even
        in which transaction it stands.
        """
        begin = self._begin
        if begin is None or message.prefix != self._prefix:
            return
        loss = parse_notice(message.content)
        if loss is None:
            self.strange_notices += 1
            return
        self._batcher.loss(completed(begin.xid, self._near), loss)

    def _commit(self, message: Commit) -> None:
        begin = self._begin
        if begin is None:
            raise ProtocolError(f"commit at {message.commit_lsn} outside a transaction")
        if message.commit_lsn != begin.commit_lsn or message.end_lsn <= message.commit_lsn:
            raise ProtocolError(
                f"commit at {message.commit_lsn} ending at {message.end_lsn} does not close begin {begin.commit_lsn}"
            )
        self._batcher.commit(message.end_lsn)
        self._begin = None
        self.received = max(self.received, message.end_lsn)

    def _describe(self, relation: Relation) -> None:
        if (relation.namespace, relation.name) != self._table:
            self._others[relation.oid] = f"{relation.namespace}.{relation.name}"
            return
        try:
            shape = Shape(relation.columns.index("xid"), relation.columns.index("deltas"), len(relation.columns))
        except ValueError as error:
            raise RefusedError(
                f"the outbox is sent with columns {', '.join(relation.columns)}; xid and deltas are needed",
                hint="remove the column list from the publication, or restore the outbox with 'cdc-counter init'",
            ) from error
        self._shapes[relation.oid] = shape
        self._rows.forget()

    def _not_ours(self, row: Insert) -> CdcCounterError:
        name = self._others.get(row.relation_oid)
        if name is None:
            return ProtocolError(f"row of relation {row.relation_oid}, which was not described before")
        return RefusedError(
            f"the publication sends rows of {name}, not only of {'.'.join(self._table)}",
            hint="remove the other tables from the publication, and set publish_via_partition_root = true",
        )
