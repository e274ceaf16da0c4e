"""The push side: aiohttp and python-socketio. Rooms, authorisation, the HTTP API, the browser client.

Sees the tallies through one protocol (`source`) and imports neither Redis nor PostgreSQL.
"""

from cdc_counter.gateway.server import Gateway
from cdc_counter.gateway.source import TallySource

__all__ = ["Gateway", "TallySource"]
