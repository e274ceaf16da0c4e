"""What the triggers write, on real servers."""
