"""Ports of this machine: a free one, and whether one can be listened at. Knows not who will listen there."""

from __future__ import annotations

import errno
import socket
from typing import Final

from pipelines.core.errors import UsageError

_REFUSED: Final = {
    errno.EADDRINUSE: "is taken: another server?",
    errno.EACCES: "is not for this user:",
}


def open_port(host: str, port: int = 0) -> int:
    """The port, which nobody listens at; any such for 0. Raises UsageError for one that is taken, and for a
    host that is no address of this machine.

    Ray binds with SO_REUSEPORT: a second server of the port would not be refused, and the kernel would deal
    the questions out between the two.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
            # What a server that has ended leaves for a minute (TIME_WAIT) is no server.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
            found: int = tried.getsockname()[1]
            return found
    except (OSError, TypeError) as exc:  # the second: a name that cannot be encoded
        if why := _REFUSED.get(getattr(exc, "errno", 0)):
            raise UsageError(f"port {port} of {host} {why} name another with --port, 0 for any") from exc
        raise UsageError(
            f"{host} is no address of this machine ({exc}): name one with --host, 0.0.0.0 for every one"
        ) from exc
