"""Live counters for PostgreSQL: exact, provable, pushed to every screen."""

from importlib.metadata import version

__version__ = version("cdc-counter")
