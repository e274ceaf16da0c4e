"""Generated histories of transactions, and what a stream sends of them, as the server would: in commit order."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import orjson
from hypothesis import strategies as st

from cdc_counter.core.lsn import Lsn
from cdc_counter.core.pgoutput import Begin, Commit, Ignored, Insert, Message, Relation
from cdc_counter.core.watermark import Watermark

NAMESPACE = "cdc_counter"
OUTBOX = Relation(16_400, NAMESPACE, "outbox", ("part", "xid", "deltas"))

Key = tuple[int, str, str]
Entry = tuple[int, str, str, int] | tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One outbox row; a foreign one carries another transaction's number, as after a restore."""

    entries: tuple[Entry, ...]
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Transaction:
    """`quiet` is how many bytes of WAL lie between its predecessor and its commit record; keepalives may fall there."""

    xid: int
    commit_lsn: Lsn
    end_lsn: Lsn
    rows: tuple[Row, ...]
    keepalive: Lsn | None

    @property
    def own_rows(self) -> list[Row]:
        return [row for row in self.rows if not row.foreign]

    def messages(self) -> Iterator[Message]:
        yield Begin(self.commit_lsn, float(self.commit_lsn), self.xid & 0xFFFFFFFF)
        yield Ignored("M")
        for row in self.rows:
            xid = self.xid + 1 if row.foreign else self.xid
            yield Insert(OUTBOX.oid, (b"0", str(xid).encode(), orjson.dumps(row.entries)))
        yield Commit(self.commit_lsn, self.end_lsn, float(self.commit_lsn))


History = list[Transaction]


def total(rows: list[Row]) -> Counter[Key]:
    """Return what the deltas of some rows add up to, without zeros."""
    sums: Counter[Key] = Counter()
    for row in rows:
        for entry in row.entries:
            if len(entry) == 4:
                sums[entry[:3]] += entry[3]
    return Counter({key: value for key, value in sums.items() if value})


def rows_up_to(history: History, watermark: Watermark) -> list[Row]:
    """Return exactly the rows that tallies at `watermark` hold."""
    rows = [row for t in history if t.end_lsn <= watermark.lsn for row in t.own_rows]
    if watermark.partial is not None:
        (open_one,) = [t for t in history if t.xid == watermark.partial.xid]
        assert open_one.end_lsn > watermark.lsn
        rows += open_one.own_rows[: watermark.partial.rows]
    return rows


_deltas = st.tuples(st.integers(1, 2), st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(-3, 3))
_broken = st.tuples(st.integers(1, 2), st.just("22012"), st.sampled_from(["division", "overflow"]))
_entries = st.one_of(_deltas, _deltas, _deltas, _deltas, _deltas, _broken)
_rows = st.builds(Row, st.lists(_entries, max_size=3).map(tuple), st.sampled_from([False] * 7 + [True]))


@st.composite
def histories(draw: st.DrawFn, max_size: int = 6) -> History:
    """Build a history; xids rise over the 32-bit border, commit records may start where their predecessor ended."""
    shapes = draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.lists(_rows, max_size=9)), max_size=max_size)
    )
    xids = draw(st.permutations(range(len(shapes))))
    lsn = draw(st.sampled_from([100, 2**32 - 3]))
    history = []
    for number, (quiet, length, rows) in zip(xids, shapes, strict=True):
        commit = lsn + quiet
        keepalive = Lsn(draw(st.integers(lsn, commit))) if draw(st.booleans()) else None
        history.append(
            Transaction((1 << 32) - 4 + 2 * number, Lsn(commit), Lsn(commit + length), tuple(rows), keepalive)
        )
        lsn = commit + length
    return history


def stream(history: History, start: Lsn) -> Iterator[Message | Lsn]:
    """Give what a server sends from `start` on: messages, and keepalives as bare positions."""
    yield OUTBOX
    for transaction in history:
        if transaction.commit_lsn < start:
            continue
        if transaction.keepalive is not None:
            yield transaction.keepalive
        for message in transaction.messages():
            yield message
            if not isinstance(message, Commit) and transaction.keepalive is not None:
                yield transaction.keepalive  # in the middle of a transaction it still shows what lies before it
    yield Lsn(history[-1].end_lsn + 5) if history else Lsn(200)
