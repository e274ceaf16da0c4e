"""The decoder on bytes that real servers sent, and on what a fault could make of them."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.core.frames import PrimaryKeepalive, StandbyStatusUpdate, XLogData, parse_frame, unix_to_postgres
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.pgoutput import (
    Begin,
    Commit,
    Ignored,
    Insert,
    LogicalMessage,
    Message,
    Relation,
    Truncate,
    parse_message,
)
from cdc_counter.errors import ProtocolError
from tests.data.record_pgoutput import load

VERSIONS = (18, 15)
SESSIONS = {version: load(version)["sessions"] for version in VERSIONS}
FRAMES = {(v, name): [bytes.fromhex(text) for text in texts] for v in VERSIONS for name, texts in SESSIONS[v].items()}
ALL_FRAMES = sorted({frame for frames in FRAMES.values() for frame in frames})
HEADER = 25
# Protocol 2 puts a transaction number into the messages of a streamed transaction: they are well-formed otherwise.
MESSAGES = sorted(
    {f[HEADER:] for (_, session), frames in FRAMES.items() for f in frames if session != "streamed" and f[:1] == b"w"}
)
READABLE = b"BCRITOYM"
REFUSED = b"UDSEAc"

versions = pytest.mark.parametrize("version", VERSIONS)


def parsed(version: int, session: str) -> Iterator[Message]:
    for data in FRAMES[version, session]:
        frame = parse_frame(data)
        if isinstance(frame, XLogData):
            yield parse_message(frame.payload)


def decoded(data: bytes) -> Message | PrimaryKeepalive:
    """Decode one CopyData payload, frame and message."""
    frame = parse_frame(data)
    return frame if isinstance(frame, PrimaryKeepalive) else parse_message(frame.payload)


@versions
def test_every_message_of_the_outbox_is_read(version: int) -> None:
    messages = list(parsed(version, "outbox"))
    rows = [message for message in messages if isinstance(message, Insert)]
    begins = [message for message in messages if isinstance(message, Begin)]
    commits = [message for message in messages if isinstance(message, Commit)]
    roots = [message for message in messages if isinstance(message, Relation) and message.name == "outbox"]

    assert len(rows) == 9
    assert len(begins) == len(commits) == 6
    assert all(b.commit_lsn == c.commit_lsn < c.end_lsn for b, c in zip(begins, commits, strict=True))
    assert all(b.commit_time == c.commit_time > 1_700_000_000 for b, c in zip(begins, commits, strict=True))
    assert {row.relation_oid for row in rows} == {roots[0].oid}, "rows come under the root's name"
    assert roots[0].columns == ("part", "xid", "deltas")
    assert roots[-1].columns == ("part", "xid", "deltas", "remark")
    assert rows[0].values == (b"0", str(begins[0].xid).encode(), b'[[1,"42","7",1]]')
    assert "größe 🐘".encode() in (rows[2].values[2] or b"")
    assert rows[4].values == (b"1", None, None)
    assert rows[6].values[2] == b"", "an empty text is not a NULL"


@versions
def test_rows_of_leaves_come_under_other_relations(version: int) -> None:
    relations = {m.oid: m.name for m in parsed(version, "leaves") if isinstance(m, Relation)}
    names = {relations[m.relation_oid] for m in parsed(version, "leaves") if isinstance(m, Insert)}
    assert names == {"outbox_0", "outbox_1"}


@versions
@pytest.mark.parametrize("session", ["everything", "streamed"])
def test_messages_that_mean_an_altered_publication_or_protocol_are_refused(version: int, session: str) -> None:
    kinds = set()
    for frame in FRAMES[version, session]:
        kind = frame[HEADER : HEADER + 1]
        if frame[:1] == b"w" and kind in REFUSED:
            kinds.add(kind)
            with pytest.raises(ProtocolError, match="unexpected pgoutput message"):
                decoded(frame)
    assert kinds == ({b"U", b"D"} if session == "everything" else {bytes([kind]) for kind in REFUSED})


@versions
def test_truncate_origin_type_and_message_are_told_apart(version: int) -> None:
    kinds = {frame[HEADER : HEADER + 1]: decoded(frame) for frame in FRAMES[version, "everything"] if frame[:1] == b"w"
             and frame[HEADER : HEADER + 1] in b"TOYM"}  # fmt: skip
    message = kinds.pop(b"M")
    assert isinstance(message, LogicalMessage)
    assert message.prefix == "prefix"
    assert message.content in {b"in a transaction", b"beside any transaction"}
    assert kinds == {b"T": Truncate(), b"O": Ignored("O"), b"Y": Ignored("Y")}


@versions
def test_keepalives_tell_how_far_the_server_has_read(version: int) -> None:
    frames = [parse_frame(frame) for frame in FRAMES[version, "outbox"] if frame[:1] == b"k"]
    positions = [frame.wal_end for frame in frames if isinstance(frame, PrimaryKeepalive)]
    assert positions == sorted(positions)
    last_end = max(m.end_lsn for m in parsed(version, "outbox") if isinstance(m, Commit))
    assert positions[-1] >= last_end


def test_every_prefix_of_every_recorded_message_is_an_error() -> None:
    for message in MESSAGES:
        for length in range(len(message)):
            with pytest.raises(ProtocolError):
                parse_message(message[:length])


def test_every_prefix_of_every_recorded_frame_is_an_error() -> None:
    for frame in ALL_FRAMES:
        # Beyond the header every prefix was tried above: the rest is the message.
        for length in range(min(len(frame), HEADER + 1)):
            with pytest.raises(ProtocolError):
                decoded(frame[:length])


def test_every_prefix_of_a_streamed_message_gives_a_message_or_an_error() -> None:
    for version in VERSIONS:
        for frame in FRAMES[version, "streamed"]:
            for length in range(HEADER, len(frame) + 1):
                answer_or_error(frame[HEADER:length])


def test_bytes_after_the_end_of_a_message_are_an_error() -> None:
    for message in MESSAGES:
        for more in (b"\0", b"t", b"I", message):
            with pytest.raises(ProtocolError):
                parse_message(message + more)


def test_every_corrupted_byte_gives_a_message_or_an_error() -> None:
    for message in [message for message in MESSAGES if len(message) <= 80 and message[0] in READABLE][:60]:
        for at in range(len(message)):
            for value in {0, 1, 0x7F, 0x80, 0xFF, message[at] ^ 1, message[at] ^ 0x80, ord("n"), ord("t"), ord("u")}:
                answer_or_error(message[:at] + bytes([value]) + message[at + 1 :])


def test_a_column_sent_in_binary_or_left_out_as_unchanged_is_an_error() -> None:
    row = b"I" + bytes(4) + b"N" + b"\0\1"
    assert parse_message(row + b"t\0\0\0\1x") == Insert(0, (b"x",))
    for column in (b"b\0\0\0\1x", b"u", b"t\xff\xff\xff\xffx", b"t\0\0\0\2x"):
        with pytest.raises(ProtocolError):
            parse_message(row + column)


@given(st.binary(max_size=200))
def test_random_bytes_give_a_message_or_an_error(data: bytes) -> None:
    answer_or_error(data)


@given(st.sampled_from(READABLE), st.binary(max_size=60))
def test_random_bytes_behind_a_known_tag_give_a_message_or_an_error(tag: int, data: bytes) -> None:
    answer_or_error(bytes([tag]) + data)


@given(st.sampled_from(b"wk"), st.binary(max_size=60))
def test_random_frames_give_a_message_or_an_error(tag: int, data: bytes) -> None:
    try:
        decoded(bytes([tag]) + data)
    except ProtocolError:
        return


@given(st.sampled_from([m for m in MESSAGES if m[0] in READABLE]), st.data())
def test_several_corrupted_bytes_give_a_message_or_an_error(message: bytes, data: st.DataObject) -> None:
    changed = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    answer_or_error(bytes(changed))


def test_an_error_names_the_message_and_the_bytes() -> None:
    with pytest.raises(ProtocolError, match=r"pgoutput Begin has 5 bytes instead of 21"):
        parse_message(b"B1234")
    with pytest.raises(ProtocolError, match=r"unexpected pgoutput message '5a 5a' of 2 bytes"):
        parse_message(b"ZZ")
    with pytest.raises(ProtocolError, match=r"frame b'k' of 4 bytes"):
        parse_frame(b"kabc")
    with pytest.raises(ProtocolError, match=r"unknown replication frame '78' of 1 bytes"):
        parse_frame(b"x")


def test_a_status_update_has_the_layout_of_the_manual() -> None:
    update = StandbyStatusUpdate(write=Lsn(3), flush=Lsn(2), apply=Lsn(1), reply_requested=True)
    data = update.encode(now=946_684_801.5)
    assert data == b"r" + b"".join(n.to_bytes(8) for n in (3, 2, 1, 1_500_000)) + b"\1"


def test_clocks_before_2000_are_negative_on_the_wire() -> None:
    assert unix_to_postgres(946_684_799.0) == -1_000_000


def answer_or_error(data: bytes) -> None:
    try:
        message = parse_message(data)
    except ProtocolError:
        return
    assert isinstance(message, Begin | Commit | Relation | Insert | Truncate | LogicalMessage | Ignored)


def test_a_logical_message_is_read_in_whatever_encoding_it_was_written() -> None:
    """A database of SQL_ASCII holds any bytes, and anybody may write such a message."""
    data = b"M\1" + bytes(8) + b"f\xfcr\0" + (2).to_bytes(4, "big") + b"\xfc\0"
    assert parse_message(data) == LogicalMessage("f\ufffdr", b"\xfc\0")
