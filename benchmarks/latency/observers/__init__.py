"""Those who wait for commits, each a program of its own: it begins, notes when it saw what, and ends, as it is told."""
