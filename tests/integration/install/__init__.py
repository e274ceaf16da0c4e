"""Installing, re-installing and removing, on real servers."""
