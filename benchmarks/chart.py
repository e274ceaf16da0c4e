"""Charts as SVG text: bars with the ends of their rounds, and lines over one axis. Pure, and nothing but text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Protocol

from benchmarks.figures import OURS, Spread

_LONGEST_BAR: Final = 360
_LONGEST_LINE: Final = 480
_LETTER: Final = 7.5
"""More than a letter is wide on average; what a label is given, as nothing here measures text."""
_ROW: Final = 26
_LEFT: Final = 70
_RIGHT: Final = 110
_TOP: Final = 44
_HEIGHT: Final = 300
_COLOURS: Final = ("#0b6e4f", "#c1440e", "#3b5b92", "#8a6d1d", "#6b4c8a", "#555555")
_STYLE: Final = "font-family='system-ui, sans-serif' font-size='13'"


class Chart(Protocol):
    """Something to draw."""

    @property
    def name(self) -> str:
        """Of the file."""

    @property
    def title(self) -> str:
        """Above it, and for who can't see it."""

    def svg(self) -> str:
        """Draw."""


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar per label from 0, its median, a line from the lowest to the highest round."""

    name: str
    title: str
    unit: str
    bars: Sequence[tuple[str, Spread]]

    def svg(self) -> str:
        """Draw."""
        most = max((spread.high for _, spread in self.bars), default=1) or 1
        left = _room_for(label for label, _ in self.bars)
        scale = _LONGEST_BAR / most
        parts = [_text(0, 18, f"{self.title} ({self.unit})", weight="bold")]
        for number, (label, spread) in enumerate(self.bars):
            y = _TOP + number * _ROW
            middle, end = y + _ROW / 2 - 3, left + spread.high * scale
            colour = _COLOURS[0] if OURS in label else "#9aa5b1"
            parts += [
                _text(left - 8, middle + 4, label, anchor="end"),
                f"<rect x='{left}' y='{y}' width='{spread.median * scale:.1f}' height='{_ROW - 6}' fill='{colour}'/>",
                _line([(left + spread.low * scale, middle), (end, middle)], "#111111", 1.5),
                _text(max(end, left + spread.median * scale) + 6, middle + 4, _short(spread.median)),
            ]
        return _document(left + _LONGEST_BAR + _RIGHT, _TOP + len(self.bars) * _ROW + 8, parts)


@dataclass(frozen=True, slots=True)
class Lines:
    """One line per label over points (x, y); an axis is logarithmic where its values span more than 100 times."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]

    def svg(self) -> str:
        """Draw."""
        points = [point for line in self.lines.values() for point in line]
        left, right, bottom = _LEFT, _LEFT + _LONGEST_LINE, _TOP + _HEIGHT
        x_axis = _Axis.over([x for x, _ in points], left, right)
        y_axis = _Axis.over([y for _, y in points], bottom, _TOP)
        parts = [_text(0, 18, f"{self.title}: {self.y_label}", weight="bold")]
        for tick in y_axis.ticks():
            parts += [
                _line([(left, y_axis.at(tick)), (right, y_axis.at(tick))], "#dddddd", 1),
                _text(left - 6, y_axis.at(tick) + 4, _short(tick), anchor="end"),
            ]
        parts += [_text(x_axis.at(tick), bottom + 18, _short(tick), anchor="middle") for tick in x_axis.ticks()]
        parts.append(_text((left + right) / 2, bottom + 38, self.x_label, anchor="middle"))
        for number, (label, line) in enumerate(self.lines.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            drawn = [(x_axis.at(x), y_axis.at(y)) for x, y in sorted(line)]
            parts.append(_line(drawn, colour, 2))
            parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>" for x, y in drawn]
            parts.append(_text(right + 12, _TOP + 14 + number * 20, label, colour=colour))
        return _document(right + 12 + _room_for(self.lines), bottom + 50, parts)


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> "_Axis":
        most, positive = max(values, default=1.0) or 1.0, [value for value in values if value > 0]
        logarithmic = len(positive) == len(values) > 0 and most > 100 * min(positive)
        if logarithmic:
            return cls(math.floor(math.log10(min(positive))), math.ceil(math.log10(most)), start, end, logarithmic)
        return cls(0.0, most, start, end, logarithmic)

    def at(self, value: float) -> float:
        """Return where a value stands."""
        placed = math.log10(value) if self.logarithmic else value
        return self.start + (placed - self.low) / ((self.high - self.low) or 1) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return where to write a number."""
        if self.logarithmic:
            return [10.0**power for power in range(int(self.low), int(self.high) + 1)]
        return [self.high * part / 4 for part in range(5)]


def _room_for(labels: Iterable[str]) -> int:
    """Return how wide the longest label may be, with a margin."""
    return round(max(map(len, labels), default=0) * _LETTER) + 16


def _document(width: float, height: float, parts: Sequence[str]) -> str:
    size = f"viewBox='-8 0 {width + 16:.0f} {height:.0f}' width='{width:.0f}'"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} {_STYLE}>\n"
        f"<rect x='-8' width='100%' height='100%' fill='white'/>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = "#111111"
) -> str:
    where = f"x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'"
    return f"<text {where} font-weight='{weight}' fill='{colour}'>{escape(text)}</text>"


def _line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f"<polyline points='{drawn}' fill='none' stroke='{colour}' stroke-width='{width}'/>"


def _short(value: float) -> str:
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:g}"
