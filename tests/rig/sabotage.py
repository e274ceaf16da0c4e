"""The `cdc-counter` command with a fault planted in it: what a defect of ours would do, so that it can be found.

`python -m tests.rig.sabotage FOLDER run --config ...`: whenever a file `drop` or `twice` appears in FOLDER, the first
delta of the next outbox row is left out, or added twice; then the file is renamed to `drop.done` or `twice.done` and
holds that delta as JSON. `die-before-repair` and `die-after-repair` end the process as kill -9 does, around the next
script call that repairs. `fail-count`: the next count of a table breaks off after its first rows, and all after it
begin a second late.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import orjson

from cdc_counter.cli import main
from cdc_counter.core.batch import Batcher
from cdc_counter.core.outbox import Fold
from cdc_counter.core.outcome import Outcome
from cdc_counter.errors import UnreachableError
from cdc_counter.postgres.recount import Recount, Recounter, TruthRow
from cdc_counter.tallies.store import TallyStore

KINDS: Final = ("drop", "twice")


def sabotaged(folder: Path, text: bytes) -> bytes:
    """Return what the consumer is to believe the row says."""
    entries = orjson.loads(text)
    for kind in KINDS:
        order = folder / kind
        if order.exists() and entries and len(entries[0]) == 4:
            order.write_text(json.dumps(entries[0]), encoding="utf-8")
            order.rename(folder / f"{kind}.done")
            return orjson.dumps(entries[1:] if kind == "drop" else [entries[0], *entries])
    return text


def die(order: Path) -> None:
    """End at once, if so ordered; the next process does not find the order any more."""
    if order.exists():
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def plant(folder: Path) -> None:
    """Put the faults into this process."""
    honest = Fold.add_row
    honest_apply = TallyStore.apply
    honest_truth = Recount.truth
    honest_snapshot = Recounter._snapshot

    def add_row(fold: Fold, text: bytes) -> None:
        honest(fold, sabotaged(folder, text))

    async def apply(store: TallyStore, *arguments: Any, repair: str = "", **options: Any) -> Outcome:
        if repair:
            die(folder / "die-before-repair")
        outcome = await honest_apply(store, *arguments, repair=repair, **options)
        if repair:
            die(folder / "die-after-repair")
        return outcome

    async def truth(recount: Recount, *arguments: Any, **options: Any) -> AsyncIterator[list[TruthRow]]:
        async for rows in honest_truth(recount, *arguments, **options):
            yield rows
            if (folder / "fail-count").exists():
                (folder / "fail-count").rename(folder / "fail-count.done")
                raise UnreachableError("the count was broken off on purpose")

    async def snapshot(recounter: Recounter, *arguments: Any) -> Recount:
        if (folder / "fail-count.done").exists():
            # Deltas that arrive meanwhile are seen by the count that begins again.
            await asyncio.sleep(1)
        return await honest_snapshot(recounter, *arguments)

    setattr(Recount, "truth", truth)  # noqa: B010 - as below
    setattr(Recounter, "_snapshot", snapshot)  # noqa: B010 - as below
    setattr(TallyStore, "apply", apply)  # noqa: B010 - not an assignment that a type checker can follow
    setattr(Fold, "add_row", add_row)  # noqa: B010 - not an assignment that a type checker can follow
    # One row is to be hit, and not every later one that is alike.
    setattr(Batcher, "_remember_fold", lambda *_: None)  # noqa: B010 - as above


if __name__ == "__main__":
    plant(Path(sys.argv[1]))
    main(args=sys.argv[2:], prog_name="cdc-counter")
