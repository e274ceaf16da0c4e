"""SIGINT and SIGTERM as a stop event: the first asks, the second kills."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; after it both act as they do on any program."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def asked() -> None:
        release()
        stop.set()

    def release() -> None:
        # remove_signal_handler gives SIGINT back to Python (KeyboardInterrupt), which waits for the event loop's
        # turn; a person who presses Ctrl-C twice wants the default, which waits for nothing.
        for number in _SIGNALS:
            if loop.remove_signal_handler(number):
                signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, asked)
    try:
        yield stop
    finally:
        release()
