"""The report: figures, sums, page, and what makes a soak fail."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cdc_counter.errors import ConfigError
from cdc_counter.soak.observation import differences
from cdc_counter.soak.page import nice, page, thinned
from cdc_counter.soak.record import FindingKind, Record, Sample
from cdc_counter.soak.report import About, Report, add_up, lines, read_report, recovery_figures, summarise
from cdc_counter.soak.sandbox import as_toml
from cdc_counter.soak.schedule import FaultKind
from cdc_counter.soak.writers import Written

ABOUT = About(seed=7, postgres="18.6", redis="6.2.14", command="cdc-counter soak --seed 7", version="0.1.0")


def record() -> Record:
    made = Record(checks=3, keys_compared=30)
    made.samples = [Sample(float(n), n / 10 if n % 7 else None, n * 100, n * 2, n * 20, 10) for n in range(120)]
    for kind, took in ((FaultKind.REDIS_KILL, 1.0), (FaultKind.REDIS_KILL, 3.0), (FaultKind.FLUSHALL, 5.0)):
        made.fault(kind, 3.0)
        made.recovered(kind, took)
    made.undecided("slot 17 at 0/1A2B3C is gone")
    made.undecided("slot 18 at 0/2A2B3C is gone")
    return made


def report(made: Record) -> Report:
    written = Written()
    written.committed.update({"copy": 2, "copy + savepoint": 1})
    return summarise(made, written, ABOUT, starts=2, ended={6: 1})


def failed_report() -> Report:
    made = record()
    made.find(FindingKind.MISMATCH, "a key")
    return report(made)


def test_report_has_the_figures_that_are_asked_of_it() -> None:
    document = json.loads(json.dumps(report(record()).to_json()))
    assert document["passed"]
    assert (document["checks"], document["keys_compared"], document["inconclusive"]) == (3, 30, 2)
    assert (document["mismatches"], document["false_alarms"]) == (0, 0)
    assert document["faults"] == {"flushall": 1, "redis_kill": 2}
    assert document["recoveries"]["redis_kill"] == {"n": 2, "median": 2.0, "max": 3.0}
    assert (document["seed"], document["postgres"], document["command"]) == (7, "18.6", "cdc-counter soak --seed 7")
    assert document["written"] == {"copy": 3, "savepoint": 1}


def test_reasons_that_differ_in_numbers_only_are_one() -> None:
    assert list(record().inconclusive.values()) == [2]


@pytest.mark.parametrize("kind", FindingKind)
def test_any_finding_fails_the_soak_and_is_named(kind: FindingKind) -> None:
    made = record()
    made.find(kind, "scope '1' bucket '2' by +1")
    failed = report(made)
    assert not failed.passed
    assert any("scope '1' bucket '2' by +1" in line for line in lines(failed))
    assert "bucket &#x27;2&#x27;" in page(failed, made)


def test_mismatches_found_at_rest_count_as_mismatches() -> None:
    made = record()
    made.find(FindingKind.MISSED, "a key")
    made.find(FindingKind.FALSE_ALARM, "a key")
    assert (report(made).mismatches, report(made).false_alarms) == (1, 1)


def test_sums_add_figures_and_faults_and_keep_the_longest_recovery(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report(record()).to_json()), encoding="utf-8")
    sums = add_up(read_report(tmp_path / name) for name in ("a", "b"))
    assert (sums["checks"], sums["keys_compared"], sums["inconclusive"]) == (6, 60, 4)
    assert sums["faults"] == {"flushall": 2, "redis_kill": 4}
    assert sums["recoveries"]["redis_kill"] == {"n": 4, "max": 3.0}
    assert [run["seed"] for run in sums["runs"]] == [7, 7]


def test_what_is_no_report_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a soak's report"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not a soak's report"):
        read_report(tmp_path)


def test_page_is_well_formed_and_needs_nothing_from_elsewhere() -> None:
    made = record()
    text = page(report(made), made)
    body = text.partition("<body>")[2].partition("</body>")[0]
    root = ET.fromstring(f"<body>{body}</body>")  # noqa: S314 - it is our own
    assert len(root.findall(".//svg")) >= 5
    for word in ("http:", "https:", "src=", "<script", "@import", "url("):
        assert word not in text


def test_page_of_nothing_renders() -> None:
    made = Record()
    assert "passed" in page(report(made), made)


def test_thinned_curve_keeps_its_peaks_and_its_holes() -> None:
    points: list[tuple[float, float | None]] = [(float(n), 0.0) for n in range(1000)]
    points[500] = (500.0, 9.0)
    points[600:620] = [(float(n), None) for n in range(600, 620)]
    made = thinned(points, 100)
    assert len(made) <= 100
    assert max(y for _, y in made if y is not None) == 9.0
    assert any(y is None for _, y in made)


@pytest.mark.parametrize(("largest", "end"), [(0, 1), (0.03, 0.1), (1, 1), (3, 5), (7, 10), (120, 200), (999, 1000)])
def test_axis_ends_at_a_round_number(largest: float, end: float) -> None:
    assert nice(largest) == pytest.approx(end)


def test_recovery_figures() -> None:
    assert recovery_figures([1.0, 2.0, 6.0]) == {"n": 3, "median": 2.0, "max": 6.0}


def test_differences_are_found_in_both_directions() -> None:
    surplus, missing = ("c", "1", "a"), ("c", "1", "b")
    assert differences({surplus: 1}, {missing: 2}) == {surplus: (1, 0), missing: (0, 2)}
    assert differences({surplus: 1}, {surplus: 1}) == {}


def test_configuration_is_written_as_it_was_read() -> None:
    import tomllib  # noqa: PLC0415 - only here

    file = {"redis": {"url": "redis://x", "n": 1, "f": 0.5}, "counter": [{"name": 'é "q" \\', "by": ["a", "b"]}]}
    assert tomllib.loads(as_toml(file)) == file
