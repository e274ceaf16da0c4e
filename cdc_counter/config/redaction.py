"""Shows a DSN or URL without its secrets.

Text in, text out, for libpq's two DSN forms and for Redis URLs, malformed ones too: what an error message or
a log line shows has often just failed to parse, so nothing here parses.
"""

import re
from typing import Final

MASK: Final = "***"

# Up to the last @ before the path: a password that was not percent-encoded may hold @ itself.
_USERINFO: Final = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^:@/?#\s]*:)[^/?#\s]*(?=@)", re.IGNORECASE)

# Percent-encoding, quotes and doubled spaces around = are all legal to libpq.
_PARAMETER: Final = re.compile(
    r"(?P<head>\b(?:password|sslpassword|oauth_client_secret)\s*=\s*)(?:'(?:[^'\\]|\\.)*'?|[^\s&'][^\s&]*)",
    re.IGNORECASE | re.DOTALL,
)

# A password with / ? or # in it, not percent-encoded, hides the real end of the authority from _USERINFO.
_STRAY_USERINFO: Final = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^:@/?#\s]*:)[^@\s]*(?=@)", re.IGNORECASE)


def redacted(dsn: str) -> str:
    """Return `dsn` with every password replaced by `***`; text without one is returned unchanged."""
    shown = _USERINFO.sub(rf"\g<head>{MASK}", dsn)
    if shown == dsn:
        shown = _STRAY_USERINFO.sub(rf"\g<head>{MASK}", dsn)
    return _PARAMETER.sub(rf"\g<head>{MASK}", shown)
