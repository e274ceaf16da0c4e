"""Which web pages may talk to us: an explicit list, and pages that this very server delivered.

Browsers put the page's origin into every WebSocket request; a missing one means that it is not a browser. Headers that
a proxy adds (X-Forwarded-Host and its kin) are never believed: whoever connects can write them. A page counts as our
own only under an address literal, `localhost` or the configured host name: any other name in Host may have been
pointed at us by its owner (DNS rebinding).
"""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def is_loopback(host: str) -> bool:
    """Return whether binding `host` serves this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Origins:
    """The decision for one gateway. `own_host` is the host it is bound to."""

    def __init__(self, listed: tuple[str, ...], own_host: str) -> None:
        self._listed = frozenset(listed)
        self._listed_hosts = frozenset(urlsplit(origin).hostname for origin in listed)
        self._own_host = own_host.lower()

    def is_listed(self, origin: str | None) -> bool:
        """Return whether a page of `origin` may read answers (CORS)."""
        return origin in self._listed

    def allows(self, origin: str | None, host: str | None) -> bool:
        """Return whether a request with these `Origin` and `Host` headers may be served over Socket.IO."""
        if origin is None or origin in self._listed:
            return True
        own, claimed = _address(f"//{host or ''}"), _address(origin)
        if own is None or claimed is None or not self._is_certain(own[0]):
            return False
        scheme = urlsplit(origin).scheme
        return claimed[0] == own[0] and claimed[1] == (own[1] or _DEFAULT_PORTS.get(scheme))

    def knows_host(self, host: str | None) -> bool:
        """Return whether the name in `Host` is one of ours, so that no foreign page can stand behind it."""
        address = _address(f"//{host or ''}")
        return address is not None and (self._is_certain(address[0]) or address[0] in self._listed_hosts)

    def _is_certain(self, name: str) -> bool:
        if name in {"localhost", self._own_host}:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _address(url: str) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return (parts.hostname, port or _DEFAULT_PORTS.get(parts.scheme)) if parts.hostname else None
