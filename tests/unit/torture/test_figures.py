"""The evidence of torture: sums over runs, kept in a file that is added to."""

import json
from collections import Counter
from pathlib import Path

from tests.torture.figures import Figures, load, save, summary
from tests.torture.kind import Kind


def run(kind: Kind, deaths: int, **more: object) -> Figures:
    figures = Figures(kind, seed=1, commit="abc", versions="PostgreSQL 18.6, Redis 6.2.14", deaths=deaths)
    for name, value in more.items():
        setattr(figures, name, value)
    return figures


def test_deaths_are_summed_by_kind_and_differences_over_all() -> None:
    found = summary(
        [
            run(Kind.CONSUMER_KILLS, 5, recoveries=[1.0, 3.0]),
            run(Kind.CONSUMER_KILLS, 7, differences=1, recoveries=[2.0]),
            run(Kind.REDIS_CRASHES, 2, epochs_begun=2),
        ]
    )
    assert (found["consumer_kills"], found["redis_crashes"], found["postgres_failovers"]) == (12, 2, 0)
    assert found["differences"] == 1
    assert found["epochs_begun"]["redis_crashes"] == 2
    assert found["recovery_seconds"] == {"consumer_kills": {"median": 2.0, "p95": 3.0, "max": 3.0}}


def test_what_was_saved_is_loaded_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "torture.json"
    assert load(path) == []
    first = run(Kind.POSTGRES_CRASHES, 3, variants=Counter({"crash": 3}), recoveries=[0.25], findings=["a key"])
    save(path, [first])
    save(path, [*load(path), run(Kind.POSTGRES_CRASHES, 4)])
    assert load(path)[0] == first
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert (kept["postgres_crashes"], kept["findings"], len(kept["runs"])) == (7, ["a key"], 2)


def test_a_run_with_a_finding_or_a_difference_did_not_pass() -> None:
    assert run(Kind.CONSUMER_KILLS, 1).passed
    assert not run(Kind.CONSUMER_KILLS, 1, differences=1).passed
    assert not run(Kind.CONSUMER_KILLS, 1, findings=["a consumer ended"]).passed
