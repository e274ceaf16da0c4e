"""Many Socket.IO clients in one lean process: they subscribe and note what arrives when, and nothing else.

The generator of load must not be the limit of what it measures, so it speaks WebSocket by hand, over bare sockets and
epoll. It is the same for every server: what differs is told by `plan.py`. `watching.py` is the other end of its pipe.
"""
