"""Who listens on a port, for messages."""

from __future__ import annotations

import contextlib

import psutil


def port_holder(port: int) -> str:
    """Pid and command of the process that listens on a TCP port, as far as this user may see them."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid is not None:
                command = " ".join(psutil.Process(connection.pid).cmdline())[:200]
                return f"pid {connection.pid} ({command})"
    return "a process of another user"
