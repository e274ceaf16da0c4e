"""The decisions: pure functions and values, without sockets, clock, event loop or environment."""
