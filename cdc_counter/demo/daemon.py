"""The process that the demo may kill: consumer and gateway as `cdc-counter run` has them, and the page's routes.

Run as `python -m cdc_counter.demo.daemon CONFIG`; ends when asked by SIGTERM.
"""

import asyncio
import logging
import signal
import sys
from pathlib import Path

from cdc_counter import wiring
from cdc_counter.config import Config, load_config
from cdc_counter.demo.page import DemoPage


async def serve(config: Config) -> None:
    """Run until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    source = wiring.source(config)
    try:
        page = DemoPage(config.postgres.conninfo, source.read)
        await wiring.run(config, stop, gateway_routes=page.routes())
    finally:
        await source.aclose()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(load_config(Path(sys.argv[1]), {})))
