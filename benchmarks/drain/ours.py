"""Drains a slot with the product's own consumer: `python -m benchmarks.drain.ours CONFIG LSN`.

Decoded, folded, applied to Redis, and confirmed to the slot, as in `run`. Prints the seconds as JSON: until Redis held
everything, and until the slot was told and the connection closed.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from cdc_counter.config import load_config
from cdc_counter.core.lsn import Lsn
from cdc_counter.garbage import rarely_collected
from cdc_counter.metrics import Metrics
from cdc_counter.wiring.parts import consume, consuming_parts, tally_store


async def drain(config_file: Path, end: Lsn) -> dict[str, float]:
    """Consume until everything up to `end` is applied, then stop in an orderly way."""
    config = load_config(config_file, os.environ)
    stop = asyncio.Event()
    async with tally_store(config) as tallies, consuming_parts(config, tallies, Metrics()) as parts:
        began = time.perf_counter()
        consuming = asyncio.create_task(consume(parts.consumer, stop, []))
        while not ((session := parts.consumer.session) and session.progress.applied >= end):
            if consuming.done():
                consuming.result()
                raise RuntimeError("the consumer ended by itself")
            await asyncio.sleep(0.002)
        applied = time.perf_counter() - began
        stop.set()
        await consuming
        return {"applied": applied, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    with rarely_collected():
        told = asyncio.run(drain(Path(sys.argv[1]), Lsn.parse(sys.argv[2])))
    print(json.dumps(told))  # noqa: T201 - to its caller
