"""The soak: writers, faults and verification on servers of its own, for as long as one likes, to find drift.

Everything happens in a sandbox: two servers that it starts itself, a proxy in front of each of the daemon's links, the
daemon as a process of its own. Tables and counters may be the user's; servers never are.
"""
