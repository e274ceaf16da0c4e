"""The recordings that feed the decoder's tests are still what servers send."""

from tests.data.record_pgoutput import load, record


def kinds(frames: list[str]) -> set[str]:
    """Return the kinds of messages in a session, as their first bytes."""
    return {frame[50:52] for frame in frames if frame.startswith("77")}


def test_servers_send_the_kinds_of_messages_that_are_kept_as_recordings(database: str) -> None:
    live = record(database)
    kept = load(live["server_version"] // 10_000)
    assert {name: kinds(live["sessions"][name]) for name in kept["sessions"]} == {
        name: kinds(frames) for name, frames in kept["sessions"].items()
    }
