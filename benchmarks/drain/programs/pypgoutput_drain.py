"""Reads so many rows with pypgoutput: DSN SLOT PUBLICATION ROWS. Runs without our packages."""

import json
import sys
import time

from pypgoutput import LogicalReplicationReader


def main(dsn: str, slot: str, publication: str, wanted: int) -> None:
    """Count change events."""
    rows = 0
    began = time.perf_counter()
    reader = LogicalReplicationReader(publication_name=publication, slot_name=slot, dsn=dsn)
    for _ in reader:
        rows += 1
        if rows >= wanted:
            break
    seconds = time.perf_counter() - began
    reader.extractor.terminate()
    print(json.dumps({"rows": rows, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
