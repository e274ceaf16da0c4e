"""Charts are drawn whole: lines from left to right, and labels inside the picture."""

import re

from benchmarks.chart import Bars, Lines
from benchmarks.figures import Spread


def test_line_runs_from_left_to_right_in_whatever_order_its_points_were_measured() -> None:
    svg = Lines("n", "t", "x", "y", {"a": [(1000.0, 1.0), (100.0, 2.0), (5000.0, 3.0)]}).svg()
    drawn = re.findall(r"<polyline points='([^']*)' fill='none' stroke='#0b6e4f'", svg)[0]
    xs = [float(point.partition(",")[0]) for point in drawn.split()]
    assert xs == sorted(xs)
    assert len(xs) == 3


def test_picture_is_as_wide_as_its_longest_label_needs() -> None:
    def width(label: str) -> float:
        return float(re.findall(r"width='(\d+)'", Bars("n", "t", "u", [(label, Spread(1.0, 1.0, 1.0))]).svg())[0])

    assert width("x" * 80) - width("x" * 20) >= 60 * 7
