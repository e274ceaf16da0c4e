"""The small values: positions, watermarks, progress, routes, health."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.core.counters import CounterRecord, Route, route_of
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.progress import Progress
from cdc_counter.core.reading import CounterInfo, CounterState
from cdc_counter.core.report import StatusReport
from cdc_counter.core.status import STALE_REPORT_SECONDS, STUCK_SECONDS, Phase, StreamStatus, readiness
from cdc_counter.core.watermark import Partial, Watermark
from cdc_counter.errors import ProtocolError

LSNS = st.integers(0, 2**64 - 1).map(Lsn)


@given(LSNS, LSNS)
def test_every_spelling_is_read_back_and_versions_sort_as_positions(one: Lsn, other: Lsn) -> None:
    assert Lsn.parse(str(one)) == Lsn.from_version(one.version) == one
    assert (one < other) == (one.version < other.version)
    assert len(one.version) == 16


@pytest.mark.parametrize(
    "text", ["", "0", "0/", "/0", "0/G", "0/123456789", "0/1\n", " 0/1", "0/1/2", "-0/1", "\u0661/1"]
)
def test_what_is_no_position_is_an_error(text: str) -> None:
    with pytest.raises(ProtocolError, match="not an LSN"):
        Lsn.parse(text)


@pytest.mark.parametrize("text", ["", "0", "0/1", "000000000000000a", "0" * 15, "0" * 17, "0" * 16 + "\n"])
def test_what_is_no_version_is_an_error(text: str) -> None:
    with pytest.raises(ProtocolError, match="not a version"):
        Lsn.from_version(text)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_position_has_64_bits(value: int) -> None:
    with pytest.raises(ProtocolError, match="out of range"):
        Lsn(value)


def test_positions_read_as_postgresql_writes_them() -> None:
    assert str(Lsn.parse("16/B374D848")) == "16/B374D848"
    assert Lsn.parse("16/b374d848") - Lsn.parse("16/B374D840") == 8
    assert Lsn.parse("0/FFFFFFF") < Lsn.parse("0/10000000")


@given(LSNS, st.none() | st.builds(Partial, st.integers(0, 2**64), st.integers(0, 10**9)))
def test_a_watermark_is_read_back_as_it_was_stored(lsn: Lsn, partial: Partial | None) -> None:
    watermark = Watermark(lsn, partial)
    assert Watermark.from_stored(watermark.lsn.version, watermark.partial_text) == watermark


@pytest.mark.parametrize("partial", ["7", "7:", ":7", "a:b", "7:1\n", "-7:1"])
def test_a_damaged_partial_watermark_is_an_error(partial: str) -> None:
    with pytest.raises(ProtocolError, match="not a partial watermark"):
        Watermark.from_stored("0" * 16, partial)


@given(st.lists(st.tuples(st.sampled_from(["receive", "apply", "keep", "confirm"]), st.integers(0, 9)), max_size=20))
def test_confirmed_never_passes_durable_nor_that_applied_nor_that_received(moves: list[tuple[str, int]]) -> None:
    progress = Progress.starting_at(Lsn(3), Lsn(3))
    for name, value in moves:
        before = (progress.confirmed, progress.durable, progress.applied, progress.received)
        try:
            getattr(progress, name)(Lsn(value))
        except ValueError:
            assert (progress.confirmed, progress.durable, progress.applied, progress.received) == before
        after = (progress.confirmed, progress.durable, progress.applied, progress.received)
        assert list(after) == sorted(after)
        assert all(one <= other for one, other in zip(before, after, strict=True))


def record(state: CounterState, *, quarantined: bool = False) -> CounterRecord:
    return CounterRecord(7, "n", state, scoped=True, quarantined=quarantined)


@pytest.mark.parametrize(
    ("known", "activated", "route"),
    [
        (None, {7}, Route.NOWHERE),
        (record(CounterState.LIVE), set(), Route.TALLY),
        (record(CounterState.STALE), set(), Route.TALLY),
        (record(CounterState.STALE, quarantined=True), {7}, Route.NOWHERE),
        (record(CounterState.SEEDING), set(), Route.NOWHERE),
        (record(CounterState.SEEDING), {8}, Route.NOWHERE),
        (record(CounterState.SEEDING), {7}, Route.HIDDEN),
        (record(CounterState.REBUILDING), set(), Route.NOWHERE),
        (record(CounterState.REBUILDING), {7}, Route.HIDDEN),
    ],
)
def test_where_deltas_go(known: CounterRecord | None, activated: set[int], route: Route) -> None:
    assert route_of(known, frozenset(activated)) is route


def test_a_record_is_read_back_as_it_was_stored_and_moves_between_states() -> None:
    stale = record(CounterState.LIVE).moved_to(CounterState.STALE, 5.0, "it overflowed", quarantined=True)
    assert CounterRecord.from_json(stale.to_json()) == stale
    assert (stale.reason, stale.since, stale.quarantined, stale.awaits_seed) == ("it overflowed", 5.0, True, False)
    rebuilding = stale.moved_to(CounterState.REBUILDING, 6.0)
    assert (rebuilding.reason, rebuilding.quarantined, rebuilding.awaits_seed) == ("", False, True)
    assert rebuilding.info == CounterInfo("n", scoped=True, state=CounterState.REBUILDING)


def status(phase: Phase = Phase.STREAMING, *, detail: str = "", progress_age: float = 0.0) -> StreamStatus:
    return StreamStatus(
        pid=1, host="h", started_at=0.0, reported_at=100.0, phase=phase, detail=detail, slot="s", epoch="e",
        received="0/3", applied="0/2", confirmed="0/1", lag=0.0, backlog=0, retained_wal=None, wal_status=None,
        transactions=1, deltas=1, cycle_seconds=0.0, progress_age=progress_age,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "now", "reason"),
    [
        (None, 100.0, "no consumer reports"),
        (status(), 100.0, None),
        (status(), 100.0 + STALE_REPORT_SECONDS, None),
        (status(), 101.0 + STALE_REPORT_SECONDS, "the consumer's last report is 11 s old"),
        (status(), 90.0, None),
        (status(Phase.CONNECTING), 100.0, "the consumer is connecting"),
        (status(Phase.STOPPED, detail="a gap"), 100.0, "the consumer is stopped: a gap"),
        (status(Phase.WAITING_FOR_SLOT), 100.0, "the consumer is waiting for slot"),
        (status(progress_age=STUCK_SECONDS), 100.0, None),
        (status(progress_age=STUCK_SECONDS + 1), 100.0, "the consumer has made no progress for 31 s"),
    ],
)
def test_health_is_progress(known: StreamStatus | None, now: float, reason: str | None) -> None:
    assert readiness(known, now) == reason


def test_a_report_is_read_back_as_it_was_stored() -> None:
    assert StreamStatus.from_json(status(detail="größe").to_json()) == status(detail="größe")
    with pytest.raises(TypeError):
        StreamStatus.from_json({**status().to_json(), "new": 1})
    with pytest.raises(ValueError, match="dreaming"):
        StreamStatus.from_json({**status().to_json(), "phase": "dreaming"})


@pytest.mark.parametrize(
    ("not_ready", "state", "severity", "healthy"),
    [
        (None, CounterState.LIVE, Severity.WARNING, True),
        (None, CounterState.SEEDING, Severity.WARNING, True),
        (None, CounterState.STALE, Severity.WARNING, False),
        (None, CounterState.LIVE, Severity.ERROR, False),
        ("stuck", CounterState.LIVE, Severity.WARNING, False),
    ],
)
def test_a_status_page_is_healthy_when_numbers_move_and_none_is_wrong(
    not_ready: str | None, state: CounterState, severity: Severity, healthy: bool
) -> None:
    report = StatusReport(
        1.0, not_ready, status(), (CounterInfo("n", scoped=True, state=state),), (Finding(severity, "t", "r"),)
    )
    assert report.healthy is healthy
    assert report.to_json()["healthy"] is healthy
