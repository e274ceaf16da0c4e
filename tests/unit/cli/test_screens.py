"""What is printed: numbers, events, health, log lines."""

import io
import json
import logging
from dataclasses import replace

import pytest
from rich.console import Console

from cdc_counter.cli.health_page import print_health, shown_bytes, shown_seconds
from cdc_counter.cli.live_numbers import ChangedLines, MovingTable, choose_screen, shown_value
from cdc_counter.cli.logs import JsonLines, LogFormat, TextLines, configure_logging
from cdc_counter.cli.progress import InitDisplay
from cdc_counter.core.events import EventKind, InitEvent
from cdc_counter.core.finding import Finding, Severity
from cdc_counter.core.lsn import Lsn
from cdc_counter.core.reading import CounterInfo, CounterState, Reading
from cdc_counter.core.report import StatusReport
from cdc_counter.core.status import Phase, StreamStatus

READING = Reading("c", "42", {"7": 1234, "[b]": 5}, Lsn(255), "e", CounterState.LIVE, sequence=1)

STREAM = StreamStatus(
    pid=7,
    host="h",
    started_at=0.0,
    reported_at=99.0,
    phase=Phase.STREAMING,
    detail="",
    slot="cdc_counter",
    epoch="e",
    received="0/3",
    applied="0/2",
    confirmed="0/1",
    lag=0.25,
    backlog=3 * 1024 * 1024,
    retained_wal=None,
    wal_status="reserved",
    transactions=1234,
    deltas=5,
    cycle_seconds=0.001,
    progress_age=0.0,
)


def rendered(table: object, height: int = 60) -> str:
    console = Console(file=io.StringIO(), width=100, height=height, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_sum_is_shown_with_its_decimals_and_count_with_thousands() -> None:
    assert shown_value(1234567, 2) == "12,345.67"
    assert shown_value(-5, 2) == "-0.05"
    assert shown_value(1234567, 0) == "1,234,567"
    assert shown_value(10**30, 0).startswith("1,000,000,000,")


def test_table_marks_what_changed_and_ranks_by_value() -> None:
    screen = MovingTable()
    screen.table(READING)
    text = rendered(screen.table(replace(READING, values={"7": 1230, "[b]": 5, "9": 2000})))
    assert text.index("2,000") < text.index("1,230") < text.index("[b]")
    assert "-4" in text
    assert "+2,000" in text
    assert "00000000000000FF" in text


def test_table_says_how_many_buckets_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "20")
    text = rendered(MovingTable().table(replace(READING, values={str(n): n + 1 for n in range(5000)})))
    assert "and 4,988 more" in text


def test_piped_lines_are_changes_only_and_a_gone_bucket_is_zero(capsys: pytest.CaptureFixture[str]) -> None:
    show = ChangedLines()
    show(replace(READING, values={"a": 150, "b": 2}, scale=2))
    show(replace(READING, values={"a": 150, "c": 3}, scale=2))
    assert capsys.readouterr().out == "a\t1.50\nb\t0.02\nb\t0.00\nc\t0.03\n"


def test_json_lines_hold_the_faces_fields_and_sums_beyond_64_bits(capsys: pytest.CaptureFixture[str]) -> None:
    with choose_screen(as_json=True) as show:
        show(replace(READING, values={"7": 2**70}))
    assert json.loads(capsys.readouterr().out) == {
        "counter": "c",
        "scope": "42",
        "values": {"7": 2**70},
        "version": "00000000000000FF",
        "state": "live",
        "epoch": "e",
        "scale": 0,
    }


def display() -> tuple[InitDisplay, io.StringIO]:
    out = io.StringIO()
    return InitDisplay(Console(file=out, width=100, color_system=None)), out


def test_progress_in_a_log_is_a_line_per_tenth() -> None:
    show, out = display()
    with show:
        for done in range(0, 1001, 10):
            show(InitEvent(EventKind.PROGRESS, "seeding orders", done=done, total=1000))
        show(InitEvent(EventKind.STEP, "seeding orders"))
    lines = out.getvalue().splitlines()
    assert lines[0] == "... seeding orders 0 of 1,000"
    assert lines[-1] == "done seeding orders"
    assert len(lines) == 12


def test_markup_in_names_is_shown_as_it_is() -> None:
    show, out = display()
    with show:
        show(InitEvent(EventKind.WAITING, "table [red]x[/red]", 'pid 7 ("a[b]")'))
    assert out.getvalue() == 'waiting table [red]x[/red]  pid 7 ("a[b]")\n'


def test_wait_that_goes_on_is_named_again_only_after_a_while() -> None:
    out, now = io.StringIO(), [0.0]
    show = InitDisplay(Console(file=out, width=100, color_system=None), clock=lambda: now[0])
    with show:
        for now[0] in (0.0, 0.3, 4.9, 5.0, 5.3):
            show(InitEvent(EventKind.WAITING, "orders", f"waiting for pid 7, transaction {now[0]} s old"))
        show(InitEvent(EventKind.WAITING, "items", "waiting for pid 8"))
    assert out.getvalue().splitlines() == [
        "waiting orders  waiting for pid 7, transaction 0.0 s old",
        "waiting orders  waiting for pid 7, transaction 5.0 s old",
        "waiting items  waiting for pid 8",
    ]


def test_event_of_an_unknown_kind_is_shown_under_its_name() -> None:
    show, out = display()
    with show:
        show(InitEvent("surprise", "title"))
    assert out.getvalue() == "surprise title\n"


REPORT = StatusReport(
    taken_at=100.0,
    not_ready=None,
    stream=STREAM,
    counters=(CounterInfo("c", scoped=True, state=CounterState.LIVE),),
    findings=(Finding(Severity.WARNING, "wal [grows]", "ALTER SYSTEM"),),
)


def test_health_page_shows_lag_backlog_and_the_three_lsns(capsys: pytest.CaptureFixture[str]) -> None:
    print_health(REPORT, as_json=False)
    out = capsys.readouterr().out
    for part in (
        "healthy",
        "250 ms",
        "3.0 MiB",
        "0/3",
        "0/2",
        "0/1",
        "1,234 transactions",
        "wal [grows]",
        "ALTER SYSTEM",
    ):
        assert part in out


def test_health_page_says_why_it_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    print_health(replace(REPORT, not_ready="no consumer reports", stream=None), as_json=False)
    assert capsys.readouterr().out.startswith("not healthy: no consumer reports\n")


def test_lag_of_a_stream_that_has_ended_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    print_health(replace(REPORT, stream=replace(STREAM, phase=Phase.STOPPED)), as_json=False)
    out = capsys.readouterr().out
    assert "250 ms" not in out
    assert "3.0 MiB" not in out


def test_health_as_json_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    print_health(REPORT, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["healthy"] is True
    assert StreamStatus.from_json(document["stream"]) == STREAM
    assert document["findings"][0]["severity"] == "warning"


@pytest.mark.parametrize(
    ("change", "healthy"),
    [
        ({}, True),
        ({"not_ready": "late"}, False),
        ({"counters": (CounterInfo("c", scoped=True, state=CounterState.SEEDING),)}, True),
        ({"counters": (CounterInfo("c", scoped=True, state=CounterState.STALE),)}, False),
        ({"findings": (Finding(Severity.ERROR, "t", "r"),)}, False),
    ],
)
def test_health_is_progress_and_no_number_known_to_be_wrong(change: dict[str, object], healthy: bool) -> None:
    assert replace(REPORT, **change).healthy is healthy  # type: ignore[arg-type] # fields by name


def test_units_are_for_people() -> None:
    assert [shown_bytes(n) for n in (None, 0, 1023, 1024, 2**31)] == ["unknown", "0 B", "1023 B", "1.0 KiB", "2.0 GiB"]
    assert [shown_seconds(s) for s in (0.0004, 0.25, 2.5, 600, 36000)] == ["0 ms", "250 ms", "2.5 s", "10 min", "10 h"]


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("cdc_counter.runtime.consumer").makeRecord(
        "cdc_counter.runtime.consumer", logging.WARNING, "f", 1, message, arguments, None, extra=extra
    )
    made.created = 0.5
    return made


def test_text_line_has_instant_level_place_and_fields() -> None:
    assert TextLines().format(record("lost %s", "slot", pid=7)) == (
        "1970-01-01T00:00:00.500Z warning runtime.consumer: lost slot pid=7"
    )


def test_json_line_has_the_same_fields() -> None:
    line = JsonLines().format(record("lost %s", "slot", pid=7, message_id={1}))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "warning",
        "logger": "cdc_counter.runtime.consumer",
        "message": "lost slot",
        "pid": 7,
        "message_id": "{1}",
    }


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_log_line_shows_no_password(formatter: logging.Formatter) -> None:
    line = formatter.format(record("can't reach %s", "postgresql://me:hunter2@db/x", dsn="password=hunter2"))
    assert "hunter2" not in line


def test_libraries_speak_up_from_warning_only(capsys: pytest.CaptureFixture[str]) -> None:
    root, own = logging.getLogger(), logging.getLogger("cdc_counter")
    before = (root.handlers[:], root.level, own.level)
    try:
        configure_logging("info", LogFormat.TEXT)
        logging.getLogger("aiohttp.access").info("noise")
        logging.getLogger("aiohttp").warning("worth it")
        logging.getLogger("cdc_counter.x").info("ours")
        logging.getLogger("cdc_counter.x").debug("detail")
    finally:
        root.handlers[:], root.level = before[0], before[1]
        own.setLevel(before[2])
    lines = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["worth it", "ours"]
