"""`[gateway]` and `[gateway.auth]`: who may connect, from where, and how much one client may cost.

Ranges and contradictions inside the section are judged here. That an open gateway needs loopback is judged where the
socket is bound (`cdc_counter.gateway`), because the command line may change the host.
"""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from cdc_counter.config.settings import Section

_ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?\Z")

_DIGEST_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""RFC 7518, 3.2: an HMAC key is at least as long as its hash output."""

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip


def _origin(value: str) -> str:
    if value == "*":
        raise ValueError("must name each origin; '*' would let any web page read with its visitor's access")
    if _ORIGIN.match(value) is None:
        raise ValueError(
            "must be an origin as browsers send it: https://host or https://host:port, lower case, without a path"
        )
    return value


Origin = Annotated[str, AfterValidator(_origin)]


class AuthSettings(Section):
    """`[gateway.auth]`: how tokens are checked. Its presence turns on deny by default."""

    secret: SecretStr | None = Field(default=None, repr=False)
    """Shared key of HS256, HS384 and HS512."""
    public_key: str | None = None
    """PEM text of the key that checks RS, PS, ES and EdDSA signatures."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(strict=False, min_length=1)] = ("HS256",)
    audience: str | None = None
    issuer: str | None = None
    claim: Annotated[str, Field(min_length=1)] = "scopes"
    """The claim that lists scopes, or maps a counter's name (or `*`) to its scopes."""
    leeway_seconds: Annotated[int, Field(ge=0, le=300)] = 5
    """How far the clocks of issuer and gateway may differ."""

    @model_validator(mode="after")
    def _key_fits_algorithms(self) -> Self:
        # A public key taken for an HMAC secret lets anybody sign: the two families never mix.
        if (self.secret is None) == (self.public_key is None):
            raise ValueError("must have either secret or public_key")
        symmetric = [name for name in self.algorithms if name in _DIGEST_BYTES]
        if self.secret is None:
            if symmetric:
                raise ValueError(f"algorithms {', '.join(symmetric)} need secret, not public_key")
            return self
        if len(symmetric) != len(self.algorithms):
            raise ValueError("secret can only be used with HS256, HS384 and HS512; others need public_key")
        needed = max(_DIGEST_BYTES[name] for name in symmetric)
        if len(self.secret.get_secret_value().encode()) < needed:
            raise ValueError(f"secret must be at least {needed} bytes long for {', '.join(symmetric)}")
        return self


class GatewaySettings(Section):
    """`[gateway]`: where it listens and its limits, each per client unless it says otherwise."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8400
    """0 takes a free port."""
    cors_origins: Annotated[tuple[Origin, ...], Field(strict=False)] = ()
    """Pages of other origins that may connect. Never '*'."""
    transports: Annotated[
        tuple[Literal["websocket", "polling"], ...], Field(strict=False, min_length=1)
    ] = ("websocket", "polling")  # fmt: skip
    tick_ms: Annotated[int, Field(ge=1, le=10_000)] = 20
    """At most one event per room in this time."""
    max_clients: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_subscriptions: Annotated[int, Field(ge=1, le=100_000)] = 200
    max_queue: Annotated[int, Field(ge=8, le=100_000)] = 256
    """Packets waiting for one client before it is sent a snapshot instead of every change."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=1_000_000)] = 16_384
    messages_per_second: Annotated[float, Field(gt=0, le=100_000)] = 50.0
    allow_unauthenticated: bool = False
    """Serve everybody who can reach a host other than loopback."""
    auth: AuthSettings | None = None
