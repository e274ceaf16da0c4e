"""Loads the Lua scripts of this folder and calls them by their hash, re-sending the text when the server forgot it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from cdc_counter.tallies.connection import Commands, command


@dataclass(frozen=True, slots=True)
class Script:
    """One script; its KEYS, ARGV and replies are documented at the top of its file."""

    text: str
    sha: str

    @classmethod
    def load(cls, name: str) -> "Script":
        """Read `lua/<name>.lua`."""
        text = (Path(__file__).parent / "lua" / f"{name}.lua").read_text(encoding="utf-8")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    async def call(self, client: Commands, keys: list[str], arguments: list[str | bytes]) -> list[str]:
        """Run it; returns the reply as texts."""
        try:
            reply: Any = await command(client, "EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            reply = await command(client, "EVAL", self.text, len(keys), *keys, *arguments)
        # A stored value that is no text can only be somebody else's: it is shown, and equal to nothing of ours.
        return [part.decode(errors="replace") for part in reply]
