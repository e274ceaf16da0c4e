"""Joins the edges to the loops: the only place that knows both. What commands and the demo call."""

from cdc_counter.wiring.changes import apply, plan
from cdc_counter.wiring.daemon import run
from cdc_counter.wiring.installation import drop, init, print_sql
from cdc_counter.wiring.parts import source
from cdc_counter.wiring.status import read_status
from cdc_counter.wiring.verification import repair, repairs, verify

__all__ = ["apply", "drop", "init", "plan", "print_sql", "read_status", "repair", "repairs", "run", "source", "verify"]
