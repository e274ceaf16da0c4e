"""The benchmark's file and page: one section replaces only its own, and what is missing is said."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.progress import Progress

from benchmarks.bench import Bench, PeerMissingError
from benchmarks.chart import Bars, Lines
from benchmarks.evidence import Evidence, Measured
from benchmarks.figures import OURS, Figures, Spread
from benchmarks.machine import without_out
from benchmarks.page import write_page
from benchmarks.plan import Piece, piece_of_own, pieces
from benchmarks.sections import NAMES, section


def bench(folder: Path, rounds: int = 3) -> Bench:
    return Bench("drain", folder, Progress(disable=True), quick=True, rounds=rounds)


def measured(*rounds: float, missing: dict[str, str] | None = None, commit: str = "abc") -> Measured:
    figures = Figures()
    for value in rounds:
        figures.record("rate", OURS, "rows/s", value, {"transport": "tcp"})
    return Measured(figures, missing or {}, {"commit": commit, "command": "python -m benchmarks"}, False, 12)


def test_peers_take_turns_and_each_begins_once(tmp_path: Path) -> None:
    turns = list(bench(tmp_path).turns("rate", ["a", "b", "c"]))
    assert turns == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_a_peer_that_is_missing_is_said_once_and_gets_no_further_turn(tmp_path: Path) -> None:
    asked = []

    def missing() -> float:
        asked.append(1)
        raise PeerMissingError("no such\npackage")

    run = bench(tmp_path)
    run.compare("rate", "rows/s", {OURS: lambda: 5.0, "other": missing}, transport="tcp")
    assert (run.missing, len(asked)) == ({"other": "no such package"}, 1)
    assert [(each.peer, each.rounds) for each in run.figures] == [(OURS, [5.0, 5.0, 5.0])]


def test_a_figure_has_one_unit(tmp_path: Path) -> None:
    run = bench(tmp_path)
    run.record("rate", OURS, "rows/s", 1.0)
    with pytest.raises(ValueError, match="not in ms"):
        run.record("rate", OURS, "ms", 1.0)


def test_a_section_replaces_only_its_own_figures(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bench.json"
    first = Evidence({"growth": measured(1.0, 2.0), "drain": measured(3.0, missing={"other": "no Java"})})
    first.save(path)
    again = Evidence.load(path)
    assert again == first
    again.sections["drain"] = measured(4.0)
    again.save(path)
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert list(kept["sections"]) == ["drain", "growth"]
    assert [kept["sections"][name]["figures"][0]["rounds"] for name in ("drain", "growth")] == [[4.0], [1.0, 2.0]]
    assert kept["sections"]["growth"]["figures"][0]["median"] == 1.5
    assert set(kept["targets"]) == set(NAMES)


def test_rounds_are_added_to_those_of_the_same_commit_only() -> None:
    evidence = Evidence({"drain": measured(3.0)})
    evidence.put("drain", measured(4.0, 5.0, missing={"other": "no Java"}, commit="abc-dirty"), add=True)
    kept = evidence.sections["drain"]
    assert ([each.rounds for each in kept.figures], kept.missing, kept.seconds) == (
        [[3.0, 4.0, 5.0]], {"other": "no Java"}, 24,
    )  # fmt: skip
    evidence.put("drain", measured(6.0, commit="def"), add=True)
    evidence.put("growth", measured(7.0), add=True)
    assert [each.figures[0].rounds for each in evidence.sections.values()] == [[6.0], [7.0]]
    evidence.put("growth", measured(8.0))
    assert evidence.sections["growth"].figures[0].rounds == [8.0]


def test_a_command_is_kept_without_the_place_of_its_file() -> None:
    assert without_out(["drain", "--out", "build/bench.json", "--add"]) == ["drain", "--add"]
    assert without_out(["drain", "--quick"]) == ["drain", "--quick"]


def test_the_page_keeps_its_prose_and_shows_figures_and_what_is_missing(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(
        "# Title\n\nBefore.\n\n<!-- bench:growth -->\nold\n<!-- bench:end -->\n\nAfter.\n", encoding="utf-8"
    )
    evidence = Evidence({"growth": measured(1500.0, 2500.0, missing={"other": "no Java"})})
    write_page(evidence, page)
    once = page.read_text(encoding="utf-8")
    assert once.startswith("# Title\n\nBefore.\n\n<!-- bench:growth -->\n")
    assert "| rate (transport tcp) | cdc-counter | 2,000 rows/s | 1,500 to 2,500 | 2 |" in once
    assert "Missing: other: no Java." in once
    assert "old" not in once
    assert "\nAfter.\n" in once
    write_page(evidence, page)
    assert page.read_text(encoding="utf-8") == once, "writing it again changes nothing"


@pytest.mark.parametrize("name", NAMES)
def test_every_section_can_draw_nothing(name: str) -> None:
    assert section(name).TITLE
    assert list(section(name).charts(Figures())) == []


def test_a_bar_is_as_long_as_its_median() -> None:
    drawn = Bars("n", "T <&>", "rows/s", [("cdc-counter", Spread(50, 40, 100)), ("other", Spread(25, 20, 30))]).svg()
    root = ET.fromstring(drawn)  # noqa: S314 - our own text
    widths = [float(rect.get("width", "0")) for rect in root.findall(".//{*}rect") if rect.get("fill") != "white"]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)


def test_a_line_over_many_powers_of_ten_is_drawn_by_powers() -> None:
    drawn = Lines("n", "T", "keys", "bytes", {"ours": [(1e3, 80), (1e5, 80), (1e7, 80)]}).svg()
    root = ET.fromstring(drawn)  # noqa: S314 - our own text
    places = [float(dot.get("cx", "0")) for dot in root.findall(".//{*}circle")]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)


def test_a_part_is_wanted_by_some_text_of_its_name(tmp_path: Path) -> None:
    run = Bench("drain", tmp_path, Progress(disable=True), quick=True, rounds=1, part="one-row")
    assert run.wants("one-row transactions")
    assert not run.wants("losses")
    assert bench(tmp_path).wants("losses")


def test_the_plan_takes_every_section_and_only_those_that_are_named() -> None:
    for quick in (False, True):
        assert {piece.section for piece in pieces(NAMES, quick=quick)} == set(NAMES)
        assert {piece.section for piece in pieces(["drain", "growth"], quick=quick)} == {"drain", "growth"}
    assert piece_of_own("drain", "losses", None, 9, quick=False) == Piece("drain", "losses", 1.0, 9)
