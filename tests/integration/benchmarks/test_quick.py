"""The quick benchmark ends, keeps what it measured, and shows it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.machine import ROOT


@pytest.mark.programme
@pytest.mark.parametrize("name", ["drain", "readers", "growth"])
def test_a_quick_section_keeps_and_shows_its_figures(name: str, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--rounds", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = json.loads(out.read_text(encoding="utf-8"))["sections"][name]
    assert kept["quick"]
    assert kept["figures"]
    page = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert all(figure["peer"] in page for figure in kept["figures"])
    assert list((tmp_path / "performance").glob(f"{name}-*.svg"))
