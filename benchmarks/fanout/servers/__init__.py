"""The peers, each a program of its own: prints its port, then sends what standard input says, a line at a time.

`one 5` sends the value 5 to everybody's one room, `spread 5` to every one of the small rooms. Events look like ours.
"""
