"""The command line as a person types it: options anywhere, words on stderr, exit codes."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cdc_counter import wiring
from cdc_counter.cli import main
from cdc_counter.cli.outcome import exit_code_of
from cdc_counter.config import Config
from cdc_counter.core.events import EventKind, InitEvent, InitReport
from cdc_counter.core.reading import CounterInfo, CounterState
from cdc_counter.core.report import StatusReport
from cdc_counter.errors import CdcCounterError, ConfigError, ExitCode, ReseedNeededError, UnreachableError

COMMANDS = sorted(main.commands)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text('[[counter]]\nname = "orders"\ntable = "orders"\n', encoding="utf-8")
    return path


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Replace what `drop` calls by a note of the configuration it was called with."""
    calls: list[Config] = []

    async def drop(config: Config, on_event: object) -> None:
        calls.append(config)

    monkeypatch.setattr(wiring, "drop", drop)
    return calls


def invoke(*arguments: str | Path, **extra: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **extra)


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(wiring, "read_status", fail)


def test_config_is_accepted_before_and_after_the_command(config_file: Path, dropped: list[Config]) -> None:
    assert invoke("--config", config_file, "drop", "--yes").exit_code == ExitCode.OK
    assert invoke("drop", "--config", config_file, "--yes").exit_code == ExitCode.OK
    assert [config.path for config in dropped] == [config_file, config_file]


def test_config_nearer_to_the_command_wins(config_file: Path, dropped: list[Config]) -> None:
    assert invoke("--config", "elsewhere.toml", "drop", "--config", config_file, "--yes").exit_code == ExitCode.OK


def test_config_comes_from_the_environment(config_file: Path, dropped: list[Config]) -> None:
    assert invoke("drop", "--yes", env={"CDC_COUNTER_CONFIG": str(config_file)}).exit_code == ExitCode.OK


@pytest.mark.parametrize("command", [["init"], ["run"], ["status"], ["watch", "orders"], ["drop", "--yes"]])
def test_missing_configuration_is_an_error_with_a_hint(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*command)
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith("error: configuration file 'cdc-counter.toml' in the working directory does not")
    assert "\nhint: copy the commented default" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["init", "run"])
def test_command_that_needs_counters_refuses_a_file_without(command: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.touch()
    result = invoke(command, "--config", empty)
    assert result.exit_code == ExitCode.USAGE
    assert "no counter is declared" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_configuration_and_names_exit_codes(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == ExitCode.OK
    assert "Examples:\n" in result.stdout
    assert "Exit codes: " in result.stdout


def test_help_of_the_program_names_every_exit_code() -> None:
    words = invoke("--help").stdout.replace("\n", " ")
    for code in ExitCode:
        assert f" {code.value} " in words


def test_drop_asks_and_a_no_changes_nothing(config_file: Path, dropped: list[Config]) -> None:
    result = invoke("drop", "--config", config_file, input="n\n")
    assert result.exit_code == ExitCode.FAILED
    assert "slot cdc_counter" in result.stdout
    assert "nothing was changed" in result.stderr
    assert dropped == []


def test_drop_goes_on_after_a_yes(config_file: Path, dropped: list[Config]) -> None:
    assert invoke("drop", "--config", config_file, input="y\n").exit_code == ExitCode.OK
    assert len(dropped) == 1


def test_print_sql_and_reseed_exclude_each_other(config_file: Path) -> None:
    result = invoke("init", "--config", config_file, "--print-sql", "--reseed")
    assert result.exit_code == ExitCode.USAGE
    assert "exclude each other" in result.stderr


def test_print_sql_prints_nothing_but_sql(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def print_sql(config: Config) -> str:
        return "CREATE SCHEMA x;"

    monkeypatch.setattr(wiring, "print_sql", print_sql)
    assert invoke("init", "--config", config_file, "--print-sql").output == "CREATE SCHEMA x;\n"


def test_init_tells_events_on_stderr_and_the_outcome_on_stdout(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def init(config: Config, on_event: Any, *, reseed: bool) -> InitReport:
        on_event(InitEvent(EventKind.WARNING, "fsync is [off]", "ALTER SYSTEM SET fsync = on;"))
        on_event(InitEvent(EventKind.STEP, "created slot", "at 0/1"))
        return InitReport(changed=1, counters=("orders",), seeded=("orders",) if reseed else ())

    monkeypatch.setattr(wiring, "init", init)
    result = invoke("init", "--config", config_file, "--reseed")
    assert result.stdout == "installed: orders\nseeded: orders\nnext: cdc-counter run\n"
    assert result.stderr == "warning fsync is [off]\n  ALTER SYSTEM SET fsync = on;\ndone created slot  at 0/1\n"


def test_second_init_says_that_nothing_was_to_be_done(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def init(config: Config, on_event: object, *, reseed: bool) -> InitReport:
        return InitReport(changed=0, counters=("orders",))

    monkeypatch.setattr(wiring, "init", init)
    assert invoke("init", "--config", config_file).stdout == "nothing to do: orders installed and seeded\n"


@pytest.mark.parametrize(("state", "code"), [(CounterState.LIVE, ExitCode.OK), (CounterState.STALE, ExitCode.FAILED)])
def test_status_says_its_verdict_as_exit_code(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, state: CounterState, code: ExitCode
) -> None:
    async def read_status(config: Config) -> StatusReport:
        counter = CounterInfo(name="orders", scoped=False, state=state)
        return StatusReport(taken_at=0, not_ready=None, stream=None, counters=(counter,))

    monkeypatch.setattr(wiring, "read_status", read_status)
    assert invoke("status", "--config", config_file).exit_code == code
    assert invoke("status", "--json", "--config", config_file).exit_code == code


def test_expected_error_is_two_lines_and_its_own_exit_code(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ReseedNeededError("slot 'a' is lost"))
    result = invoke("status", "--config", config_file)
    assert result.exit_code == ExitCode.RESEED_NEEDED
    assert result.stderr.splitlines() == [
        "error: slot 'a' is lost",
        "hint: run 'cdc-counter init --reseed' to rebuild every tally from the tables",
    ]


def test_remedy_below_an_error_is_a_line_to_copy(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ConfigError("one\n  -> mend it\ntwo", hint="h"))
    assert invoke("status", "--config", config_file).stderr == "error: one\n  -> mend it\nerror: two\nhint: h\n"


def test_error_shows_no_password(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, UnreachableError("no route to postgresql://me:hunter2@db/x", hint="password=hunter2"))
    assert "hunter2" not in invoke("status", "--config", config_file).output
    fail_with(monkeypatch, RuntimeError("postgresql://me:hunter2@db/x"))
    assert "hunter2" not in invoke("status", "--config", config_file).output


def test_unexpected_error_is_70_and_shows_a_traceback_only_on_request(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, KeyError("x"))
    result = invoke("status", "--config", config_file)
    assert result.exit_code == ExitCode.INTERNAL
    assert "Traceback" not in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" in invoke("status", "--debug", "--config", config_file).stderr
    assert "Traceback" in invoke("--debug", "status", "--config", config_file).stderr


def test_group_of_expected_errors_is_told_one_by_one(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = ExceptionGroup("g", [UnreachableError("a"), ExceptionGroup("h", [ConfigError("b")])])
    fail_with(monkeypatch, errors)
    result = invoke("status", "--config", config_file)
    assert result.exit_code == ExitCode.UNREACHABLE
    assert [line for line in result.stderr.splitlines() if line.startswith("error")] == ["error: a", "error: b"]


def test_defect_in_a_group_is_not_taken_for_an_expected_error(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, ExceptionGroup("g", [UnreachableError("a"), ValueError("b")]))
    assert invoke("status", "--config", config_file).exit_code == ExitCode.INTERNAL


def test_interrupt_is_130_wherever_it_comes() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def aborted() -> None:
        raise click.exceptions.Abort from KeyboardInterrupt()

    assert exit_code_of(interrupted, lambda: False) == 130
    assert exit_code_of(aborted, lambda: False) == 130


def test_error_without_a_hint_of_its_own_is_one_whose_raiser_must_give_it() -> None:
    """An error without words on what to do would leave the operator alone."""
    kinds = [kind for kind in CdcCounterError.__subclasses__() if kind.__module__ == CdcCounterError.__module__]
    assert {kind.__name__ for kind in kinds if not kind.default_hint} == {"NotReadyError", "RefusedError"}


def test_mistyped_command_is_answered_with_the_near_one() -> None:
    result = invoke("statsu")
    assert result.exit_code == ExitCode.USAGE
    assert "status" in result.stderr
