"""What a token lets its bearer see. Deny by default: a grant names counters and scopes, nothing is implied.

Tokens are JSON Web Tokens (RFC 7519) with an expiry. Nothing of a token is ever logged or shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from cdc_counter.config.gateway import AuthSettings
from cdc_counter.gateway.rooms import RoomKey

EVERY: Final = "*"
_LONGEST_TOKEN: Final = 8192
"""The length aiohttp accepts of a header line; before a signature is checked every byte is the sender's choice."""


class UnauthorizedError(Exception):
    """There is no usable token; the text says why without quoting it."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Scopes by counter, `*` meaning every one. `expires_at` is unix seconds, None: never."""

    scopes: Mapping[str, frozenset[str]]
    expires_at: float | None = None

    def allows(self, key: RoomKey) -> bool:
        """Return whether this room may be seen."""
        granted = (self.scopes.get(key.counter, frozenset()), self.scopes.get(EVERY, frozenset()))
        return any(key.scope in scopes or EVERY in scopes for scopes in granted)


OPEN: Final = Grant({EVERY: frozenset({EVERY})})
"""Everything, where authorisation is not configured."""


class Authority:
    """Turns tokens into grants."""

    def __init__(self, settings: AuthSettings | None) -> None:
        self._settings = settings
        self._key = ""
        if settings is not None:
            secret = settings.secret.get_secret_value() if settings.secret is not None else None
            self._key = secret or settings.public_key or ""

    @property
    def required(self) -> bool:
        """Whether a token is needed at all."""
        return self._settings is not None

    def grant(self, token: object) -> Grant:
        """Return what `token` grants; raises UnauthorizedError."""
        settings = self._settings
        if settings is None:
            return OPEN
        if not isinstance(token, str) or not 0 < len(token) <= _LONGEST_TOKEN:
            raise UnauthorizedError("token required")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=list(settings.algorithms),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway_seconds,
                options={"require": ["exp"]},
            )
            expires_at = float(claims["exp"]) + settings.leeway_seconds
        except jwt.ExpiredSignatureError:
            raise UnauthorizedError("token expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # `from None`: the parser's message may quote what was sent.
            raise UnauthorizedError("token refused") from None
        return Grant(_scopes(claims.get(settings.claim), settings.claim), expires_at)


def bearer_token(header: str | None) -> str | None:
    """Return the token of an `Authorization` header, None without one (RFC 6750, 2.1)."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _scopes(value: Any, claim: str) -> dict[str, frozenset[str]]:
    match value:
        case list():
            return {EVERY: _texts(value, claim)}
        case dict():
            return {counter: _texts(scopes, claim) for counter, scopes in value.items()}
        case _:
            raise UnauthorizedError(f"token has no usable claim {claim!r}")


def _texts(value: Any, claim: str) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise UnauthorizedError(f"claim {claim!r} must list scopes as texts or integers")
    return frozenset(str(item) for item in value if not isinstance(item, bool))
