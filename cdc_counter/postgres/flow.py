"""How much must have come before a socket wakes its reader: much while the reader is behind, else anything.

The walsender sends each message by itself. A reader that wakes for each of them takes the processor from it, and pays a
system call for each; with SO_RCVLOWAT the kernel lets some pile up. Whoever has caught up must not wait for
more to come, so the patience is short, and ends it. Unix sockets ignore the option, at no harm.
"""

import contextlib
import os
import socket
from typing import Final

ENOUGH: Final = 16_384
"""Bytes of a read that are worth a turn, and too many for one who has caught up: some 80 transactions of one row."""

_LOWEST: Final = 32_768
"""Bytes to wake up for; the kernel takes less where its buffer is smaller."""

_PATIENCE: Final = 0.002
"""Seconds that what has come waits for more: paid once, when the last of a backlog is read."""


class Flow:
    """The lowest amount of one connected socket; `descriptor` stays its owner's."""

    def __init__(self, descriptor: int) -> None:
        # Options belong to the socket, however many descriptors it has. Without a descriptor to spare it goes without.
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._socket = socket.socket(fileno=os.dup(descriptor))
        self._lowest = 1

    @property
    def patience(self) -> float | None:
        """How many seconds to wait before reading what there is; None for as long as it takes."""
        return _PATIENCE if self._lowest > 1 else None

    def read(self, size: int) -> None:
        """Take note of what a read brought, in bytes."""
        self._set(_LOWEST if size >= ENOUGH else 1)

    def waited(self) -> None:
        """Take note that the socket was waited for: whatever comes next wakes its reader, unless much has come."""
        self._set(1)

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()

    def _set(self, lowest: int) -> None:
        if lowest == self._lowest or self._socket is None:
            return
        # Not every kernel knows the option; then every byte wakes the reader, as ever.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowest)
            self._lowest = lowest
