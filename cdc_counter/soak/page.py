"""The report as one page of HTML that needs nothing else: figures, and charts over time as inline SVG."""

import itertools
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from cdc_counter.soak.record import Record, Sample
from cdc_counter.soak.report import Report
from cdc_counter.soak.schedule import FaultKind

_WIDTH: Final = 960
_HEIGHT: Final = 150
_LEFT: Final = 64
_POINTS: Final = 480
"""Of a curve; each is the largest value of its stretch of time."""

_COLOURS: Final = {"daemon": "#b45309", "postgres": "#1d4ed8", "redis": "#b91c1c", "link": "#7c3aed"}

_STYLE: Final = """
:root {
  color-scheme: light dark;
  --ink: #1c1917; --soft: #78716c; --line: #e7e5e4; --paper: #fff; --good: #15803d; --bad: #b91c1c;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e5e4; --soft: #a8a29e; --line: #44403c; --paper: #1c1917; --good: #4ade80; --bad: #f87171; }
}
body {
  font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
}
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--line); } .curve { fill: none; stroke: #0f766e; stroke-width: 1.5; }
code { background: var(--line); padding: .1rem .3rem; border-radius: .25rem; overflow-wrap: anywhere; }
"""

_RECOVERED: Final = """<p class="soft">From the end of the fault until the daemon streams, every counter is live, and
what was committed meanwhile is applied.</p>"""


def page(report: Report, record: Record) -> str:
    """Return the whole document."""
    about = report.about
    verdict = '<span class="good">passed</span>' if report.passed else '<span class="bad">failed</span>'
    minutes = report.seconds / 60
    body = [
        f"<h1>Soak {verdict}</h1>",
        (
            f'<p class="soft">{minutes:.1f} minutes on PostgreSQL {escape(about.postgres)}'
            f" and Redis {escape(about.redis)}, seed {about.seed}, cdc-counter {escape(about.version)}</p>"
        ),
        f"<p><code>{escape(about.command)}</code></p>",
        *_findings(report),
        _tiles(report),
        _legend(),
        "<h2>Lag, seconds</h2>",
        _chart(record, lambda sample: sample.lag, marks=True),
        "<h2>Backlog, KiB of WAL</h2>",
        _chart(record, lambda sample: None if sample.backlog is None else sample.backlog / 1024, marks=True),
        "<h2>Checks a second</h2>",
        _chart(record, None, marks=True, rate=lambda sample: sample.checks),
        "<h2>Transactions a second</h2>",
        _chart(record, None, marks=False, rate=lambda sample: sample.transactions),
        "<h2>Faults over time</h2>",
        _faults(record),
        "<h2>Recoveries</h2>",
        _RECOVERED,
        _recoveries(report, record),
        "<h2>What could not be decided</h2>",
        _table(("reason", "times"), [(reason, f"{n:,}") for reason, n in report.inconclusive_by_reason.items()]),
        "<h2>What was written</h2>",
        _table(("kind", "committed"), [(kind, f"{n:,}") for kind, n in report.written.items()]),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Soak, seed {about.seed}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def _findings(report: Report) -> list[str]:
    if report.passed:
        return []
    items = "".join(f"<li>{escape(finding)}</li>" for finding in report.findings)
    return [f'<ul class="bad">{items}</ul>']


def _tiles(report: Report) -> str:
    shown = [
        ("checks", f"{report.checks:,}"),
        ("keys compared", f"{report.keys_compared:,}"),
        ("mismatches", str(report.mismatches)),
        ("false alarms", str(report.false_alarms)),
        ("inconclusive", f"{report.inconclusive:,}"),
        ("faults", f"{sum(report.faults.values()):,}"),
        ("transactions", f"{report.transactions:,}"),
        ("recounts at rest", str(report.rests)),
        ("transaction held open", f"{report.long_transaction_share:.0%}"),
    ]
    return '<div class="tiles">' + "".join(f'<div class="tile"><b>{v}</b>{n}</div>' for n, v in shown) + "</div>"


def _chart(
    record: Record,
    value: Callable[[Sample], float | None] | None,
    *,
    marks: bool,
    rate: Callable[[Sample], int] | None = None,
) -> str:
    """Return a curve over time, with a line wherever a fault was."""
    points = _rates(record.samples, rate) if rate else _values(record.samples, value)
    points = thinned(points, _POINTS)
    end = max((sample.after for sample in record.samples), default=1.0) or 1.0
    top = nice(max((y for _, y in points if y is not None), default=1.0))
    lines = [_frame(top, end)]
    if marks:
        lines += [
            f'<line x1="{_x(at, end):.1f}" x2="{_x(at, end):.1f}" y1="10" y2="{_HEIGHT - 20}"'
            f' stroke="{_colour(kind)}" stroke-opacity=".25"><title>{kind} at {at:.0f} s</title></line>'
            for at, kind in record.marks
        ]
    lines += [f'<polyline class="curve" points="{stretch}"/>' for stretch in _stretches(points, end, top)]
    return _svg(lines, _HEIGHT)


def _legend() -> str:
    named = " ".join(f'<span style="color:{colour}">{name}</span>' for name, colour in _COLOURS.items())
    return f'<p class="soft">Lines and dots are faults, by what they hit: {named}</p>'


def _faults(record: Record) -> str:
    """Return a row per kind, with a tick for each fault."""
    kinds = sorted({kind for _, kind in record.marks})
    end = max((sample.after for sample in record.samples), default=1.0) or 1.0
    lines = []
    for row, kind in enumerate(kinds):
        y = 14 + row * 18
        lines.append(f'<text x="0" y="{y + 4}">{kind}</text>')
        lines.append(f'<line class="grid" x1="170" x2="{_WIDTH}" y1="{y}" y2="{y}"/>')
        for at, of in record.marks:
            if of is kind:
                x = 170 + at / end * (_WIDTH - 174)
                lines.append(
                    f'<circle cx="{x:.1f}" cy="{y}" r="3.5" fill="{_colour(kind)}"><title>{at:.0f} s</title></circle>'
                )
    return _svg(lines, 20 + 18 * len(kinds))


def _recoveries(report: Report, record: Record) -> str:
    """Return a row per kind: number, median, maximum, and every single one as a dot."""
    longest = max((took for all_of in record.recoveries.values() for took in all_of), default=1.0) or 1.0
    rows = []
    for kind, figures in report.recoveries.items():
        dots = "".join(
            f'<circle cx="{4 + took / longest * 392:.1f}" cy="8" r="3" fill="{_colour(kind)}" fill-opacity=".5"/>'
            for took in record.recoveries[FaultKind(kind)]
        )
        strip = f'<svg viewBox="0 0 400 16" style="min-width:12rem">{dots}</svg>'
        n, median, most = f"{figures['n']:.0f}", f"{figures['median']:.1f}", f"{figures['max']:.1f}"
        rows.append(
            f'<tr><td>{kind}</td><td class="n">{n}</td><td class="n">{median}</td><td class="n">{most}</td>'
            f'<td style="width:45%">{strip}</td></tr>'
        )
    head = '<tr><th>fault</th><th class="n">times</th><th class="n">median, s</th><th class="n">longest, s</th>'
    return f"<table>{head}<th>0 to {longest:.1f} s</th></tr>{''.join(rows)}</table>"


def _table(heads: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return '<p class="soft">Nothing.</p>'
    body = "".join(f'<tr><td>{escape(name)}</td><td class="n">{value}</td></tr>' for name, value in rows)
    return f'<table><tr><th>{heads[0]}</th><th class="n">{heads[1]}</th></tr>{body}</table>'


def _values(
    samples: Sequence[Sample], value: Callable[[Sample], float | None] | None
) -> list[tuple[float, float | None]]:
    return [(sample.after, value(sample) if value else None) for sample in samples]


def _rates(samples: Sequence[Sample], total: Callable[[Sample], int]) -> list[tuple[float, float | None]]:
    """Return how fast a total grew, over some seconds each."""
    some = samples[::5]
    return [
        (b.after, (total(b) - total(a)) / (b.after - a.after)) for a, b in itertools.pairwise(some) if b.after > a.after
    ]


def thinned(points: Sequence[tuple[float, float | None]], count: int) -> list[tuple[float, float | None]]:
    """Return at most about `count` points, each the largest of its stretch; None where there was nothing."""
    step = max(1, -(-len(points) // count))
    found = []
    for start in range(0, len(points), step):
        stretch = points[start : start + step]
        values = [y for _, y in stretch if y is not None]
        found.append((stretch[0][0], max(values) if values else None))
    return found


def nice(largest: float) -> float:
    """Return the next round number: where an axis ends."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** (len(str(int(largest))) - 1 if largest >= 1 else -1)
    return next(power * step for step in (1, 2, 5, 10, 20) if power * step >= largest)


def _stretches(points: Sequence[tuple[float, float | None]], end: float, top: float) -> list[str]:
    """Return the points of each unbroken part of a curve."""
    found: list[list[str]] = [[]]
    for at, value in points:
        if value is None:
            found.append([])
        else:
            y = _HEIGHT - 20 - value / top * (_HEIGHT - 30)
            found[-1].append(f"{_x(at, end):.1f},{y:.1f}")
    return [" ".join(stretch) for stretch in found if stretch]


def _frame(top: float, end: float) -> str:
    """Return axes with numbers."""
    lines = []
    for part in range(3):
        y = _HEIGHT - 20 - part / 2 * (_HEIGHT - 30)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{top * part / 2:,g}</text>')
    for part in range(5):
        x = _x(end * part / 4, end)
        anchor = "start" if part == 0 else "end" if part == 4 else "middle"
        lines.append(f'<text x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{end * part / 4 / 60:.1f} min</text>')
    return "".join(lines)


def _x(at: float, end: float) -> float:
    return _LEFT + at / end * (_WIDTH - _LEFT - 4)


def _colour(kind: str) -> str:
    words = kind.split("_")
    for word, colour in _COLOURS.items():
        if word == words[0]:
            return colour
    return _COLOURS["postgres"] if words[0] in {"walsender", "slot"} else _COLOURS["redis"]


def _svg(lines: Sequence[str], height: int) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(lines)}</svg>'
