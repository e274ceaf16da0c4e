"""The tests: unit (no I/O), integration (real servers), fault (things die), acceptance (what users see)."""
