"""What only a real process shows: signals, pipes, start-up time's cause."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STOPPABLE = """
import asyncio, sys
from cdc_counter.cli.signals import stop_on_signals

async def main():
    with stop_on_signals() as stop:
        print("ready", flush=True)
        await stop.wait()
        print("draining", flush=True)
        await asyncio.sleep({drain})
    print("drained", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    script = STOPPABLE.format(drain=request.param)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("process", [0], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_lets_the_work_drain(process: subprocess.Popen[str], number: signal.Signals) -> None:
    assert next_line(process) == "ready"
    process.send_signal(number)
    assert [next_line(process), next_line(process)] == ["draining", "drained"]
    assert process.wait(timeout=90) == 0


@pytest.mark.parametrize("process", [600], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_kills(process: subprocess.Popen[str], number: signal.Signals) -> None:
    assert next_line(process) == "ready"
    process.send_signal(signal.SIGINT)
    assert next_line(process) == "draining"
    process.send_signal(number)
    assert process.wait(timeout=90) == -number


def test_help_loads_no_driver_and_no_screen() -> None:
    """Shell completion and --help answer at once because nothing heavy is imported for them."""
    script = (
        "import sys\nfrom cdc_counter.cli import main\n"
        "print([m for m in ('psycopg', 'redis', 'socketio', 'aiohttp', 'rich.progress') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_reader_of_a_pipe_may_leave_without_a_traceback(tmp_path: Path) -> None:
    script = (
        "from cdc_counter.cli.outcome import exit_code_of\nimport sys\n"
        "def work():\n    for _ in range(100000): print('x' * 100)\n"
        "sys.exit(exit_code_of(work, lambda: False))"
    )
    read_end, write_end = os.pipe()
    with subprocess.Popen([sys.executable, "-c", script], stdout=write_end, stderr=subprocess.PIPE) as process:
        os.close(write_end)
        os.close(read_end)
        _, errors = process.communicate(timeout=60)
    assert errors == b""
    assert process.returncode == 1


def test_module_runs_like_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cdc_counter", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("cdc-counter, version ")
