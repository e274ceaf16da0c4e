"""Joins the edges to the loops: the only place that knows both. What commands and the demo call.

Each name is imported when it is first asked for: a command must not wait for the web server that `run` needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cdc_counter.wiring.changes import apply, plan
    from cdc_counter.wiring.daemon import run
    from cdc_counter.wiring.installation import drop, init, print_sql
    from cdc_counter.wiring.parts import source
    from cdc_counter.wiring.status import read_status
    from cdc_counter.wiring.verification import repair, repairs, verify

_WHERE: Final = {
    "apply": "changes",
    "drop": "installation",
    "init": "installation",
    "plan": "changes",
    "print_sql": "installation",
    "read_status": "status",
    "repair": "verification",
    "repairs": "verification",
    "run": "daemon",
    "source": "parts",
    "verify": "verification",
}

__all__ = ["apply", "drop", "init", "plan", "print_sql", "read_status", "repair", "repairs", "run", "source", "verify"]


def __getattr__(name: str) -> Any:
    """Import what is asked for; see PEP 562."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
