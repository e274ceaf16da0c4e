"""Writes what the evidence says into a page: the tables between a section's two marks; the prose around stays.

<!-- bench:drain -->
...
<!-- bench:end -->
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.evidence import Evidence, Measured
from benchmarks.figures import Condition, Figure
from benchmarks.sections import NAMES, section
from benchmarks.targets import Judgement

_END: Final = "<!-- bench:end -->"
_CHARTS: Final = "performance"
"""The folder beside the page."""


def write_page(evidence: Evidence, page: Path) -> None:
    """Replace each section's tables in the page and draw its charts; a section without marks is added at the end."""
    text = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n"
    for name in NAMES:
        mark = f"<!-- bench:{name} -->"
        if mark not in text:
            text += f"\n## {section(name).TITLE}\n\n{mark}\n{_END}\n"
        before, _, rest = text.partition(mark)
        after = rest.partition(_END)[2]
        body = "\n\n".join(_blocks(evidence, name, page.parent / _CHARTS))
        text = f"{before}{mark}\n\n{body}\n\n{_END}{after}"
    page.write_text(text, encoding="utf-8")


def _blocks(evidence: Evidence, name: str, charts: Path) -> list[str]:
    measured = evidence.sections.get(name)
    if measured is None:
        return ["Not measured yet."]
    blocks = [_provenance(measured)]
    for chart in section(name).charts(measured.figures):
        charts.mkdir(parents=True, exist_ok=True)
        (charts / f"{name}-{chart.name}.svg").write_text(chart.svg(), encoding="utf-8")
        blocks.append(f"![{chart.title}]({_CHARTS}/{name}-{chart.name}.svg)")
    blocks += [_judged(judgements)] if (judgements := evidence.judgements(name)) else []
    blocks += [_table(measured)] if measured.figures else []
    blocks += [f"Missing: {peer}: {reason}." for peer, reason in measured.missing.items()]
    return blocks


def _provenance(measured: Measured) -> str:
    told = measured.provenance
    machine = told.get("machine", {})
    quick = " **A quick run: small sizes, few rounds.**" if measured.quick else ""
    return (
        f"`{told.get('command')}` at {told.get('commit')}, {told.get('at')}, {measured.seconds:.0f} s, on"
        f" {machine.get('cores')} cores ({machine.get('processor')}).{quick} Medians of the rounds (min to max)."
    )


def _judged(judgements: Sequence[Judgement]) -> str:
    rows = []
    for each in judgements:
        target, spread = each.target, each.spread
        bound = f"≥ {target.at_least:g}" if target.at_least is not None else f"≤ {target.at_most:g}"
        goal = f"{bound} x {target.to}" if target.to else bound
        found = f"{_number(spread.median)} ({_number(spread.low)} to {_number(spread.high)})" if spread else each.why
        rows.append([f"{target.measure}{_told(target.conditions)}", goal, found, each.verdict])
    return _markdown(["target", "wanted", "found", "verdict"], rows)


def _table(measured: Measured) -> str:
    rows = [_row(figure) for figure in measured.figures]
    return _markdown(["measure", "peer", "median", "min to max", "rounds"], rows)


def _row(figure: Figure) -> list[str]:
    spread = figure.spread
    return [
        f"{figure.measure}{_told(figure.conditions)}",
        figure.peer,
        f"{_number(spread.median)} {figure.unit}",
        f"{_number(spread.low)} to {_number(spread.high)}",
        str(len(figure.rounds)),
    ]


def _told(conditions: Mapping[str, Condition]) -> str:
    named = [f"{name.replace('_', ' ')} {value}" for name, value in conditions.items()]
    return f" ({', '.join(named)})" if named else ""


def _number(value: float) -> str:
    """Three significant digits, thousands apart."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *escaped])
