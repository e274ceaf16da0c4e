"""What a soak ends with, as figures: from its record, as JSON, as lines for people, and added up over several."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cdc_counter.errors import ConfigError
from cdc_counter.soak.record import FindingKind, Record
from cdc_counter.soak.writers import Written

FILE: Final = "report.json"
_SUMMED: Final = (
    "seconds", "checks", "keys_compared", "mismatches", "false_alarms", "inconclusive", "transactions", "rests",
    "rest_keys",
)  # fmt: skip
_RUN: Final = ("command", "seed", "postgres", "redis", "version", "seconds", "passed")


@dataclass(frozen=True, slots=True)
class About:
    """What was run. `command` is the line that runs it again."""

    seed: int
    postgres: str
    redis: str
    command: str
    version: str


@dataclass(frozen=True, slots=True)
class Report:
    """`recoveries`: per kind how many, and their median and maximum in seconds. `findings`: what failed the soak."""

    about: About
    seconds: float
    checks: int
    keys_compared: int
    mismatches: int
    false_alarms: int
    inconclusive: int
    inconclusive_by_reason: Mapping[str, int]
    faults: Mapping[str, int]
    recoveries: Mapping[str, Mapping[str, float]]
    rests: int
    rest_keys: int
    transactions: int
    written: Mapping[str, int]
    refused: Mapping[str, int]
    connections_lost: int
    long_transaction_share: float
    daemon_starts: int
    daemon_ended: Mapping[str, int]
    findings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing at all was found."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict, what was run on one level with the figures."""
        document = asdict(self)
        about = document.pop("about")
        return {**about, "passed": self.passed, **document, "findings": list(self.findings)}


def summarise(record: Record, written: Written, about: About, *, starts: int, ended: Mapping[int, int]) -> Report:
    """Return the report of what was seen so far."""
    seconds = record.seconds
    return Report(
        about=about,
        seconds=round(seconds, 1),
        checks=record.checks,
        keys_compared=record.keys_compared,
        mismatches=record.count(FindingKind.MISMATCH, FindingKind.MISSED),
        false_alarms=record.count(FindingKind.FALSE_ALARM),
        inconclusive=record.inconclusive.total(),
        inconclusive_by_reason=dict(record.inconclusive.most_common()),
        faults={kind.value: count for kind, count in sorted(record.faults.items())},
        recoveries={kind.value: recovery_figures(took) for kind, took in sorted(record.recoveries.items())},
        rests=record.rests,
        rest_keys=record.rest_keys,
        transactions=written.total,
        written=dict(_single_kinds(written).most_common()),
        refused=dict(written.refused.most_common()),
        connections_lost=written.lost,
        long_transaction_share=round(min(1.0, written.long_seconds / seconds), 3) if seconds else 0.0,
        daemon_starts=starts,
        daemon_ended={str(code): count for code, count in sorted(ended.items())},
        findings=tuple(f"after {finding.after:.0f} s: {finding.kind}: {finding.text}" for finding in record.findings),
    )


def recovery_figures(took: Sequence[float]) -> dict[str, float]:
    """Return number, median and maximum of some recoveries."""
    return {"n": len(took), "median": round(statistics.median(took), 2), "max": round(max(took), 2)}


def lines(report: Report) -> list[str]:
    """Return the report as text."""
    minutes, seconds = divmod(round(report.seconds), 60)
    verdict = "PASSED: every number was equal, always" if report.passed else "FAILED"
    slowest = max(report.recoveries.items(), key=lambda item: item[1]["max"], default=None)
    return [
        f"{verdict}.",
        (
            f"  {minutes} min {seconds:02d} s on PostgreSQL {report.about.postgres} and Redis {report.about.redis}, "
            f"seed {report.about.seed}"
        ),
        f"  {report.checks:,} checks of {report.keys_compared:,} keys, {report.transactions:,} transactions meanwhile",
        f"  {report.mismatches} mismatches, {report.false_alarms} false alarms, {report.inconclusive:,} inconclusive",
        f"  {sum(report.faults.values()):,} faults of {len(report.faults)} kinds"
        + (f"; slowest recovery {slowest[1]['max']:.1f} s after {slowest[0]}" if slowest else ""),
        f"  {report.rests} rests, {report.rest_keys:,} keys equal to an honest recount",
        f"  a transaction was held open {report.long_transaction_share:.0%} of the time",
        *(f"  ! {finding}" for finding in report.findings),
    ]


def read_report(folder: Path) -> dict[str, Any]:
    """Return the figures of an earlier soak, by its folder or its file; raises ConfigError."""
    path = folder / FILE if folder.is_dir() else folder
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: document[name] for name in (*_SUMMED, "faults", "recoveries", *_RUN)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: is not a soak's report: {error}", hint="name the --report folder of a soak"
        ) from error


def add_up(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of several reports; of recoveries the number and the maximum."""
    sums: dict[str, Any] = dict.fromkeys(_SUMMED, 0)
    faults: Counter[str] = Counter()
    recoveries: dict[str, dict[str, float]] = {}
    runs = []
    for report in reports:
        for name in _SUMMED:
            sums[name] += report[name]
        faults.update(report["faults"])
        for kind, figures in report["recoveries"].items():
            known = recoveries.setdefault(kind, {"n": 0, "max": 0.0})
            recoveries[kind] = {"n": known["n"] + figures["n"], "max": max(known["max"], figures["max"])}
        runs.append({name: report[name] for name in _RUN})
    return {
        **sums,
        "seconds": round(sums["seconds"], 1),
        "faults": dict(sorted(faults.items())),
        "recoveries": dict(sorted(recoveries.items())),
        "runs": runs,
    }


def _single_kinds(written: Written) -> Counter[str]:
    """Return how often each kind of statement was committed, whatever stood beside it."""
    kinds: Counter[str] = Counter()
    for joined, count in written.committed.items():
        for kind in joined.split(" + "):
            kinds[kind] += count
    return kinds
