"""Real PostgreSQL and Redis servers as child processes, for the demo, the tests and try-outs.

They listen on loopback only, need neither root nor Docker, and end when the process that started them ends,
however it ends. Not for production data: PostgreSQL trusts every local connection.
"""

from cdc_counter.embedded.postgres import PostgresServer
from cdc_counter.embedded.redis import RedisServer

__all__ = ["PostgresServer", "RedisServer"]
