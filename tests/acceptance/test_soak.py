"""A short soak finds nothing in what is there, and finds what is planted."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from cdc_counter.cli import main
from cdc_counter.errors import ExitCode
from cdc_counter.soak.record import Record
from cdc_counter.soak.rest import shortened
from cdc_counter.soak.run import Settings, run_soak
from cdc_counter.soak.schedule import kinds_of
from cdc_counter.soak.writers import Written
from tests.acceptance.showcase import alive, processes_of
from tests.rig.daemon import command

ROOT = Path(__file__).parents[2]


class Silent:
    """Nobody watches."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, after: float, text: str) -> None:  # noqa: ARG002 - what was said is enough
        self.events.append(text)

    def refresh(self, record: Record, written: Written) -> None:
        pass


@pytest.mark.parametrize(("seconds", "faults"), [(40, 5), pytest.param(80, 10, marks=pytest.mark.programme)])
def test_short_soak_with_a_fixed_seed_finds_nothing(tmp_path: Path, seconds: int, faults: int) -> None:
    length = ("--for", f"{seconds}s", "--fault-pause", "1s")
    done = command("soak", "--seed", "20", *length, "--report", str(tmp_path), "--json", timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["mismatches"], report["false_alarms"], report["findings"]) == (0, 0, [])
    assert report["checks"] > 50
    assert report["keys_compared"] > report["checks"]
    assert len(report["faults"]) >= faults
    assert report["rests"] >= 1
    assert report["transactions"] > 300
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "report.txt").read_text(encoding="utf-8").startswith("PASSED")


async def test_soak_finds_a_dropped_delta_and_names_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    orders = tmp_path / "orders"
    orders.mkdir()
    (orders / "drop").touch()
    settings = Settings(
        seed=21,
        seconds=300.0,
        faults=kinds_of("none"),
        report=tmp_path / "report",
        command=(sys.executable, "-m", "tests.rig.sabotage", str(orders), "run"),
    )
    report = await run_soak(settings, asyncio.Event(), Silent())
    _, scope, bucket, delta = json.loads((orders / "drop.done").read_text(encoding="utf-8"))
    assert not report.passed
    assert (report.mismatches, report.false_alarms) == (1, 0)
    [finding] = report.findings
    assert f"{shortened(scope)} bucket {shortened(bucket)}: " in finding
    assert f"drift {-int(delta):+d}" in finding
    for name in ("daemon.log", "events.log", "ledger.log", "report.html", "transactions.log"):
        assert (tmp_path / "report" / name).stat().st_size, name


async def test_soak_that_is_stopped_reports_and_leaves_no_process(tmp_path: Path) -> None:
    import os  # noqa: PLC0415 - only here

    before = processes_of(os.getpid())
    stop, silent = asyncio.Event(), Silent()
    running = asyncio.create_task(run_soak(Settings(seed=22, report=tmp_path), stop, silent))
    while not any("faults and verification begin" in text for text in silent.events):
        assert not running.done(), running.exception()
        await asyncio.sleep(0.05)
    started = processes_of(os.getpid()) - before
    assert started
    stop.set()
    report = await running
    assert report.passed, report.findings
    assert report.about.seed == 22
    assert alive(started) == set()


def test_soak_that_found_something_ends_with_exit_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cdc_counter.soak import run  # noqa: PLC0415 - only here
    from tests.unit.soak.test_report import failed_report  # noqa: PLC0415 - only here

    async def found(*_: object) -> object:
        return failed_report()

    monkeypatch.setattr(run, "run_soak", found)
    assert main(["soak", "--json", "--report", str(tmp_path)], standalone_mode=False) == ExitCode.FAILED


def test_soak_refuses_counters_without_their_tables(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[[counter]]\nname = "a"\ntable = "t"\n', encoding="utf-8")
    done = command("soak", config=config)
    assert done.returncode == ExitCode.USAGE
    assert "--schema" in done.stderr
