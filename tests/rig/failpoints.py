"""The `cdc-counter` command with failpoints armed: it dies, freezes or fails at a named place of its own code.

`python -m tests.rig.failpoints FOLDER run --config ...`: a file FOLDER/<failpoint> that holds `kill`, `freeze` or
`fail`, and perhaps how many times to pass before, is an order for the next process that gets there. It is carried out
once; then the file is renamed to FOLDER/<failpoint>.done.
"""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

from cdc_counter import failpoints
from cdc_counter.cli import main
from cdc_counter.errors import UnreachableError
from cdc_counter.failpoints import Failpoint


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
        match action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "fail":
                raise UnreachableError(f"failpoint {point}")
            case _:
                raise AssertionError(f"no such action: {action!r}")


if __name__ == "__main__":
    setattr(failpoints, "reach", Orders(Path(sys.argv[1])).reach)  # noqa: B010 - not for a type checker to follow
    main(args=sys.argv[2:], prog_name="cdc-counter")
