"""The clients of the benchmark: frames however they are cut, values, and who waited how long for what."""

import pytest

from benchmarks.crowd.frames import payloads, text_frame
from benchmarks.crowd.plan import Plan, value_of
from benchmarks.crowd.watching import Seen
from benchmarks.fanout.driving import waits
from benchmarks.fanout.servers.waves import ONE, text_of


def served(text: bytes) -> bytes:
    """Return a server's frame."""
    if len(text) < 126:
        return bytes([0x81, len(text)]) + text
    if len(text) < 1 << 16:
        return b"\x81\x7e" + len(text).to_bytes(2) + text
    return b"\x81\x7f" + len(text).to_bytes(8) + text


TEXTS = [b"2", b"", b"x" * 125, b"y" * 126, b"z" * 300, b"42[]"]


def test_frames_are_the_same_wherever_they_are_cut() -> None:
    whole = b"".join(map(served, TEXTS))
    for cut in range(len(whole) + 1):
        first, rest = payloads(whole[:cut])
        second, nothing = payloads(rest + whole[cut:])
        assert first + second == TEXTS
        assert nothing == b""


def test_a_large_frame_is_read_whole() -> None:
    text = b"w" * 70_000
    assert payloads(served(text)[:-1]) == ([], served(text)[:-1])
    assert payloads(served(text)) == ([text], b"")


@pytest.mark.parametrize("length", [0, 125, 126, 40_000])
def test_a_clients_frame_says_its_length_and_a_mask(length: int) -> None:
    frame = text_frame("a" * length)
    assert frame.endswith(b"\0\0\0\0" + b"a" * length)
    assert frame[1] & 0x80
    assert frame[1] & 0x7F == (min(126, length))


def test_the_value_is_found_in_events_only() -> None:
    assert value_of(text_of(ONE, "-", 1234).encode()) == 1234
    assert value_of(b'42["reset",{"counter":"everywhere","scope":"-","values":{"-":7}}]') == -1


def test_a_plan_comes_back_as_it_was() -> None:
    plan = Plan(8400, "file", [[("a", None), ("b", "7")]], socketio=False)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_value_left_out_was_seen_with_the_next_one() -> None:
    seen = [Seen(client=1, value=11, at=50), Seen(client=2, value=13, at=90), Seen(client=1, value=13, at=70)]
    sent = {11: 10, 12: 20, 13: 60}
    assert sorted(round(1e9 * each) for each in waits(seen, sent, base=10)) == sorted([40, 50, 10, 80, 70, 30])
