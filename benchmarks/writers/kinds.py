"""The statements that are measured. Run in their order on the same rows they leave a table as it was."""

from typing import Final

INSERT: Final = "insert"
COUNTING_UPDATE: Final = "update that changes counts"
OTHER_UPDATE: Final = "update that does not"
DELETE: Final = "delete"

REOPEN: Final = "reopen"
"""Not measured: it lets every counter count what is deleted next."""

ORDER: Final = (INSERT, OTHER_UPDATE, COUNTING_UPDATE, REOPEN, DELETE)
MEASURED: Final = (INSERT, COUNTING_UPDATE, OTHER_UPDATE, DELETE)

CHANGES: Final = {
    COUNTING_UPDATE: "UPDATE {table} SET status = 'closed'",
    REOPEN: "UPDATE {table} SET status = 'open'",
    OTHER_UPDATE: "UPDATE {table} SET subject = 'What somebody else has written'",
    DELETE: "DELETE FROM {table}",
}
"""What is done to rows that are there, still without saying which."""

COLUMNS: Final = "(id, account_id, channel_id, assignee_id, status, subject)"
