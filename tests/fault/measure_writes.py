"""Prints what writers feel of every fault of ours: `python -m tests.fault.measure_writes [--json] [FAULT ...]`.

Two threads run every unit of statements on counted tables and on the same tables without counters. Asserts nothing but
what the tests assert: no errors, and no wait for a session of ours.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from cdc_counter.embedded import PostgresServer
from tests.fault.harm import FAULTS, Scene, stage


def nothing(scene: Scene) -> None:
    """Let all be well: the baseline."""
    scene.last()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--units", type=int, default=500, help="written while each fault lasts")
    parser.add_argument("faults", nargs="*")
    chosen = parser.parse_args()
    figures: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgresServer(fsync=False) as server,
        stage(server, Path(folder)) as scenes,
    ):
        for fault, may_wait in {nothing: 0.0, **FAULTS}.items():
            if chosen.faults and fault.__name__ not in chosen.faults:
                continue
            scene = scenes()
            scene.lasting, scene.writers.may_wait = chosen.units, may_wait
            with scene.writers:
                fault(scene)
            scene.deployment.assert_exact(deadline=120)
            figures[fault.__name__] = scene.writers.figures()
            if not chosen.as_json:
                print(row(fault.__name__, figures[fault.__name__]), flush=True)  # noqa: T201 - what it is for
    if chosen.as_json:
        print(json.dumps(figures, indent=2))  # noqa: T201 - what it is for


def row(name: str, of_fault: dict[str, Any]) -> str:
    """Return a line of a Markdown table."""
    sides = [of_fault[side][cut] for cut in ("median", "p99", "max") for side in ("counted_ms", "control_ms")]
    cells = [name.replace("_", " "), of_fault["units"], *sides, of_fault["longest_wait_for_us_ms"], of_fault["errors"]]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
