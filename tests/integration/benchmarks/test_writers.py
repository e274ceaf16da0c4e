"""The triggers that ours are compared with count right: a wrong one may be as fast as it likes."""

import psycopg
import pytest

from benchmarks.writers.tables import COUNTER, ROWS, Competitor, make_by_hand

pytestmark = pytest.mark.programme

_HONEST = """
SELECT 'by_status', account_id::text, status, count(*) FROM {table} WHERE id > 100 GROUP BY 1, 2, 3
UNION ALL
SELECT 'open_by_channel', account_id::text, channel_id::text, count(*) FROM {table}
 WHERE id > 100 AND status = 'open' GROUP BY 1, 2, 3
UNION ALL
SELECT 'open_by_assignee', account_id::text, coalesce(assignee_id::text, '\\N'), count(*) FROM {table}
 WHERE id > 100 AND status = 'open' GROUP BY 1, 2, 3
"""
_KEPT = {
    ROWS: "SELECT counter, scope, bucket, sum(delta) FROM row_deltas GROUP BY 1, 2, 3 HAVING sum(delta) <> 0",
    COUNTER: "SELECT counter, scope, bucket, value FROM counter_rows WHERE value <> 0",
}
_CHANGES = (
    (
        "INSERT INTO {table} (id, account_id, channel_id, assignee_id, status, subject)"
        " SELECT 100 + i, i % 3, i % 5, nullif(i % 7, 0), CASE i % 4 WHEN 0 THEN 'closed' ELSE 'open' END, 'new'"
        " FROM generate_series(1, 200) AS i"
    ),
    "UPDATE {table} SET status = 'closed' WHERE id > 100 AND id % 3 = 0",
    "UPDATE {table} SET status = 'open', assignee_id = NULL WHERE id > 100 AND id % 6 = 0",
    "UPDATE {table} SET account_id = account_id + 1, channel_id = channel_id + 1 WHERE id > 100 AND id % 5 = 0",
    "UPDATE {table} SET subject = 'other' WHERE id > 100",
    "DELETE FROM {table} WHERE id > 100 AND id % 7 = 0",
)


@pytest.mark.parametrize("competitor", [ROWS, COUNTER], ids=lambda each: each.table)
def test_counters_by_hand_equal_a_recount(database18: str, competitor: Competitor) -> None:
    with psycopg.connect(database18, autocommit=True) as connection:
        make_by_hand(connection, rows=100)
        for change in _CHANGES:
            connection.execute(change.format(table=competitor.table).encode())
        kept = connection.execute(_KEPT[competitor].encode()).fetchall()
        honest = connection.execute(_HONEST.format(table=competitor.table).encode()).fetchall()
    assert len(honest) > 20
    assert sorted(kept) == sorted(honest)
