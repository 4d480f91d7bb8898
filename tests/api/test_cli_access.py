"""The command line against a front door with TLS and keys: keys made by it are accepted by it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.api.certificates import write_certificate
from tests.api.harness import serving


async def cli(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), " ".join(err.decode().split())


async def test_keys_are_made_used_and_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    made = await cli("keys", "add", "--tenant", "ops", "--role", "admin", "--file", str(file), "--json")
    first = json.loads(made[1])
    assert first["key"] not in file.read_text() + file.with_suffix(".secret").read_text() + made[2]
    assert {path.stat().st_mode & 0o777 for path in (file, file.with_suffix(".secret"))} == {0o600}
    cert_file, key_file, _ = write_certificate(tmp_path, "door.test")
    secure = {
        "tls": {"cert_file": cert_file, "key_file": key_file},
        "auth": {"keys_file": str(file), "secret_file": str(file.with_suffix(".secret"))},
    }
    async with serving(tmp_path, **secure) as served:
        server = f"127.0.0.1:{served.servers.grpc_port}"
        command = ("--ca-file", cert_file, "status", "--json", "--server", server)
        refused, second, accepted = await asyncio.gather(
            cli(*command),
            cli("keys", "add", "--tenant", "acme", "--file", str(file)),
            cli(*command, TRIPTYCH_API_KEY=first["key"]),
        )
        assert refused[0] == 1
        assert "no API key: send `authorization: Bearer <key>`" in refused[2]
        assert accepted[0] == 0, accepted[2]
        assert len(json.loads(accepted[1])["workers"]) == 2
        assert served.authenticator.reload()
        assert served.authenticator.check(f"Bearer {second[1].strip()}").tenant == "acme"
        listed = await cli("keys", "list", "--file", str(file), "--json")
        assert [row["tenant"] for row in json.loads(listed[1])] == ["ops", "acme"]
        removed, unknown = await asyncio.gather(
            cli("keys", "remove", first["id"], "--file", str(file)),
            cli("keys", "remove", "k0", "--file", str(file)),
        )
        assert removed[0] == 0
        assert (unknown[0], "there is no key k0" in unknown[2]) == (1, True)
        assert served.authenticator.reload()
        denied = await cli(*command, TRIPTYCH_API_KEY=first["key"])
        assert (denied[0], "not known here" in denied[2]) == (1, True)
