"""How seldom a process that serves looks for reference cycles, and at what.

A full collection looks at every object there is. Of a process that has loaded its libraries those are some 100,000
that stay for ever, and everything waits for the 50 to 70 ms that it takes. What is there already is therefore left
out for good, and what comes later is looked at in larger lots: most of it is freed by its reference count.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_LOT: Final = 5_000
"""New objects between two collections of the youngest; Python's own 700 cost a drain a tenth of its time."""


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Leave out what is there now, and collect seldom, for the duration of a block. The settings are the process's."""
    _, older, oldest = thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_LOT, older, oldest)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
