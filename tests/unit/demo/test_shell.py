"""Lines to copy name a program that exists, also where nothing is on the PATH."""

import shlex
from pathlib import Path

import pytest

from cdc_counter.demo.shell import psql_line, watch_line


def test_line_names_a_program_by_its_file_where_the_path_does_not_lead_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program, *arguments = shlex.split(watch_line(Path("/a b/demo.toml"), "orders", "1"))
    assert Path(program).is_absolute()
    assert Path(program).exists()
    assert arguments == ["--config", "/a b/demo.toml", "watch", "orders", "1"]


def test_line_is_short_where_the_path_leads_to_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "psql"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert psql_line("postgresql://h/d") == "psql postgresql://h/d"
