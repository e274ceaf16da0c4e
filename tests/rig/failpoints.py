"""The `cdc-counter` command with failpoints armed: it dies, freezes or fails at a named place of its own code.

`python -m tests.rig.failpoints FOLDER run --config ...`: a file FOLDER/<failpoint> that holds an action, and how many
times to pass before, is an order for the next process that gets there. It is carried out once; then the file is renamed
to FOLDER/<failpoint>.done.
"""

import os
import signal
import sys
from collections import Counter
from enum import StrEnum
from pathlib import Path

from cdc_counter import failpoints
from cdc_counter.cli import main
from cdc_counter.errors import UnreachableError
from cdc_counter.failpoints import Failpoint
from tests.rig.eventually import eventually_sync
from tests.rig.warm import WARM


class Action(StrEnum):
    """What is done there. `fail` is what a lost connection does, `break` what a defect of ours does."""

    KILL = "kill"
    FREEZE = "freeze"
    TERMINATE = "terminate"
    FAIL = "fail"
    BREAK = "break"


class Failpoints:
    """A folder of orders, as the test sees it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def program(self) -> tuple[str, ...]:
        """What to run in place of `cdc-counter`, so that it obeys."""
        return (WARM, "tests.rig.failpoints", str(self._folder))

    def order(self, point: Failpoint, action: Action, passes: int = 0) -> None:
        """Have the next process that gets there do this, after so many passes; replaces an earlier order."""
        self.withdraw(point)
        draft = self._folder / f"{point}.draft"
        draft.write_text(f"{action} {passes}", encoding="utf-8")
        draft.rename(self._folder / point)

    def withdraw(self, point: Failpoint) -> None:
        """Forget an order, carried out or not."""
        (self._folder / point).unlink(missing_ok=True)
        self._done(point).unlink(missing_ok=True)

    def reached(self, point: Failpoint) -> bool:
        """Say whether the last order for this place was carried out."""
        return self._done(point).exists()

    def wait_reached(self, point: Failpoint, deadline: float = 60.0) -> None:
        """Wait until the order is carried out."""
        eventually_sync(lambda: self.reached(point), f"failpoint {point}", deadline=deadline)

    def _done(self, point: Failpoint) -> Path:
        return self._folder / f"{point}.done"


class Orders:
    """What one process was ordered to do, and where."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._passed: Counter[Failpoint] = Counter()

    def reach(self, point: Failpoint) -> None:
        """Carry out the order for this place, if there is one and its time has come."""
        order = self._folder / point
        if not order.exists():
            return
        action, _, passes = order.read_text(encoding="utf-8").strip().partition(" ")
        if self._passed[point] < int(passes or 0):
            self._passed[point] += 1
            return
        order.rename(order.with_name(f"{point}.done"))
        match Action(action):
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.FREEZE:
                os.kill(os.getpid(), signal.SIGSTOP)
            case Action.TERMINATE:
                os.kill(os.getpid(), signal.SIGTERM)
            case Action.FAIL:
                raise UnreachableError(f"failpoint {point}")
            case Action.BREAK:
                raise RuntimeError(f"failpoint {point}")


if __name__ == "__main__":
    setattr(failpoints, "reach", Orders(Path(sys.argv[1])).reach)  # noqa: B010 - not for a type checker to follow
    main(args=sys.argv[2:], prog_name="cdc-counter")
