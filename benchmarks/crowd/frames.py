"""WebSocket by hand (RFC 6455), a client's side, as far as a quiet server makes it necessary. Pure."""

import struct
from typing import Final

_TEXT: Final = 0x81
_MASKED: Final = 0x80
_NO_MASK: Final = b"\0\0\0\0"
"""A key of zeros: the payload is masked by law and unchanged in fact."""

_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127


def upgrade_request(port: int, path: str) -> bytes:
    """Return the HTTP request that opens a WebSocket. The key is no secret, and the answer to it is not checked."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


def text_frame(text: str) -> bytes:
    """Return a client's frame."""
    data = text.encode()
    if len(data) < _TWO_BYTES:
        return bytes([_TEXT, _MASKED | len(data)]) + _NO_MASK + data
    return struct.pack("!BBH", _TEXT, _MASKED | _TWO_BYTES, len(data)) + _NO_MASK + data


def payloads(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the payloads of the server's whole frames, and the bytes of one that has not arrived whole."""
    found = []
    at, size = 0, len(data)
    while size - at >= 2:
        length, start = data[at + 1], at + 2
        if length == _TWO_BYTES:
            start = at + 4
            length = int.from_bytes(data[at + 2 : start])
        elif length == _EIGHT_BYTES:
            start = at + 10
            length = int.from_bytes(data[at + 2 : start])
        # A length that is cut off looks too small, but never small enough to fit.
        if start + length > size:
            break
        at = start + length
        found.append(data[start:at])
    return found, data[at:]
