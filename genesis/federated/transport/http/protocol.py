"""What both ends agree on beside bodies: headers, and how often one hears of the other."""

from __future__ import annotations

__all__ = [
    "COMPRESSION",
    "HEARTBEAT_SECONDS",
    "LOOPBACK",
    "POLL_SECONDS",
    "SESSION",
    "TASK",
    "VERSION",
]

VERSION = "X-Genesis-Version"  # of the program
SESSION = "X-Genesis-Session"  # the secret of a client's session
TASK = "X-Genesis-Task"  # the id of a task
COMPRESSION = "X-Genesis-Compression"  # how a body is compressed

HEARTBEAT_SECONDS = 2.0  # from one sign of life of a client to the next
POLL_SECONDS = 20.0  # that a server waits for a task before it says that there is none

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
