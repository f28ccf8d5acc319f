"""What both ends agree on beside bodies: headers, signs of life, and what this machine is."""

from __future__ import annotations

import ipaddress

__all__ = [
    "COMPRESSION",
    "HEARTBEAT_SECONDS",
    "POLL_SECONDS",
    "SESSION",
    "TASK",
    "VERSION",
    "is_loopback",
]

VERSION = "X-Genesis-Version"  # of the program
SESSION = "X-Genesis-Session"  # the secret of a client's session
TASK = "X-Genesis-Task"  # the id of a task
COMPRESSION = "X-Genesis-Compression"  # how a body is compressed

HEARTBEAT_SECONDS = 2.0  # from one sign of life of a client to the next
POLL_SECONDS = 20.0  # that a server waits for a task before it says that there is none


def is_loopback(host: str) -> bool:
    """Whether what is sent to a host stays on this machine; without asking anybody."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
