"""Torture finds nothing in what is there, and finds what is planted."""

import json
from pathlib import Path

import pytest

from tests.rig.failpoints import Failpoints
from tests.rig.warm import WARM
from tests.torture.figures import Figures
from tests.torture.kind import Kind
from tests.torture.run import torture


@pytest.mark.programme
@pytest.mark.parametrize("kind", Kind)
def test_nothing_is_lost_and_nothing_comes_twice(kind: Kind, tmp_path: Path) -> None:
    figures = Figures(kind, seed=len(kind), commit="", versions="")
    torture(figures, 6, tmp_path, lambda _: None)
    assert (figures.findings, figures.differences) == ([], 0)
    assert figures.deaths >= 6
    assert figures.keys_compared > 30
    assert figures.screens_compared > 0


@pytest.mark.programme
def test_torture_names_the_key_of_a_delta_that_a_consumer_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "drop").touch()
    program = (WARM, "tests.rig.sabotage", str(faults))
    monkeypatch.setattr(Failpoints, "program", property(lambda _: program))
    figures = Figures(Kind.REDIS_CRASHES, seed=1, commit="", versions="")
    torture(figures, 100, tmp_path, lambda _: None)
    _, scope, bucket, _ = json.loads((faults / "drop.done").read_text(encoding="utf-8"))
    assert (figures.differences, figures.passed) == (1, False)
    assert f"'{scope}', '{bucket}'" in figures.findings[0]
