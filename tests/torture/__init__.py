"""Torture: hundreds of deaths of one kind, and an honest recount of every key again and again.

`python -m tests.torture --help`. Each kind runs by itself and adds what it counted to docs/evidence/torture.json, so
that a machine that lends itself for an hour at a time is enough. What is struck, and when, is random; a seed fixes the
choice, not how it meets the traffic.
"""
