"""The only user of redis: where the tallies, their watermark and the feed live, and how they are written and read."""
