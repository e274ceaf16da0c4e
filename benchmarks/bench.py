"""What a section measures with: rounds in which the peers take turns, figures, a folder, a progress bar."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import Progress, TaskID

from benchmarks.figures import Condition, Figures


class PeerMissingError(Exception):
    """A peer can't be had here; the text says why, and is published."""


class Bench:
    """One section's run. Sizes are the section's own: it asks `sized` which of them to take."""

    def __init__(
        self,
        section: str,
        folder: Path,
        progress: Progress,
        *,
        quick: bool,
        rounds: int,
        scale: float = 1.0,
        part: str = "",
    ) -> None:
        self.section = section
        self.folder = folder
        self.quick = quick
        self.rounds = rounds
        self._scale = scale
        self._part = part
        self.figures = Figures()
        self.missing: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._progress = progress

    def sized(self, full: int, quick: int) -> int:
        """Return the size of what is measured in this run: scaled, where a full run is."""
        return quick if self.quick else max(1, round(full * self._scale))

    def wants(self, part: str) -> bool:
        """Whether this part of the section is to be measured: all are, unless some were named."""
        return self._part in part

    def record(self, measure: str, peer: str, unit: str, value: float, **conditions: Condition) -> None:
        """Keep one round's value; the conditions are part of what the figure is."""
        self.figures.record(measure, peer, unit, value, conditions)

    def note_missing(self, peer: str, reason: object) -> None:
        """Keep why a peer was not measured."""
        self.missing.setdefault(peer, " ".join(str(reason).split()))

    def note_version(self, peer: str, what: str) -> None:
        """Keep what a peer was measured as, such as "2.5.0"; nothing where it is not installed."""
        if what:
            self.versions[peer] = what

    def turns(self, what: str, peers: Sequence[str], rounds: int | None = None) -> Iterator[str]:
        """Give every peer its turn in every round; who begins changes from round to round.

        A peer that was noted missing gets no further turn.
        """
        bar = self._progress.add_task(f"{self.section}: {what}", total=(rounds or self.rounds) * len(peers))
        for number in range(rounds or self.rounds):
            first = number % max(1, len(peers))
            for peer in (*peers[first:], *peers[:first]):
                if peer not in self.missing:
                    self._say(bar, f"{self.section}: {what}: {peer}")
                    yield peer
                self._progress.advance(bar)
        self._progress.update(bar, description=f"{self.section}: {what}")

    def _say(self, bar: TaskID, text: str) -> None:
        """Show whose turn it is: at the bar, or as a line of its own where there is nobody to watch one."""
        self._progress.update(bar, description=text)
        if not self._progress.console.is_terminal:
            self._progress.console.print(f"{datetime.now(UTC):%H:%M:%S} {text}")

    def compare(
        self, measure: str, unit: str, peers: Mapping[str, Callable[[], float]], **conditions: Condition
    ) -> None:
        """Measure each peer once a round, in turns; one that raises PeerMissingError is noted with its reason."""
        for peer in self.turns(measure, list(peers)):
            try:
                value = peers[peer]()
            except PeerMissingError as error:
                self.note_missing(peer, error)
            else:
                self.record(measure, peer, unit, value, **conditions)
