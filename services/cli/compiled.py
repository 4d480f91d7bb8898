"""Where `make compiled` leaves the simulator's modules as machine code, and whether they are those of these sources.

The modules are the same sources, compiled by mypyc; nothing else differs, and reports are the same to the byte. They
are optional: without them, or after any change of a source, the interpreted ones run.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from services.cli.output import Output

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "compiled"
SITE = FOLDER / "site"
"""Put first on the path, it has a compiled module where there is one, and a link to the source elsewhere."""
STAMP = FOLDER / "sources"
PACKAGES = ("core", "kvcache", "scheduling", "encode", "prefill", "decode", "router", "sim")
INTERPRETED = frozenset(
    [
        *("__init__.py", "config.py", "errors.py", "quick.py", "registry.py", "seeds.py"),
        *("codec.py", "decision_log.py", "frames.py", "report.py", "slo.py", "wire.py"),  # types are read as they run
        *("chrome_trace.py", "fit.py", "machines.py", "models.py", "published.py", "roofline.py", "search.py"),
    ]
)
"""Names of files that stay as they are: configuration, what looks at annotations, what runs once."""


def modules(root: Path = ROOT) -> list[Path]:
    """Files that are compiled, in name order, relative to the root."""
    found = [path for name in PACKAGES for path in sorted((root / "services" / name).glob("*.py"))]
    return [path.relative_to(root) for path in found if path.name not in INTERPRETED]


def digest(root: Path = ROOT) -> str:
    """Of everything that decides what is compiled: sources, packages, the build's own files, the interpreter."""
    packages = [str(path.relative_to(root)) for path in sorted((root / "services").rglob("__init__.py"))]
    found = hashlib.blake2b("\n".join([sys.version, *packages]).encode(), digest_size=16)
    folders = [*(root / "services" / name for name in PACKAGES), root / "deploy" / "compiled"]
    files = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    for path in [*files, root / "services" / "cli" / "compiled.py"]:
        found.update(f"\n{path.relative_to(root)}\n".encode() + path.read_bytes())
    return found.hexdigest()


def is_current() -> bool:
    """Whether they were compiled from the sources as they are."""
    return STAMP.exists() and STAMP.read_text(encoding="utf-8") == digest()


def in_use() -> bool:
    """Whether this process runs them."""
    return str(SITE) in sys.path


def prefer(output: Output, environment: Mapping[str, str]) -> None:
    """Begin this command again with them before the path, if they are of these sources; say what runs.

    Modules that were imported already would stay what they are, and processes that it starts find them by the path.
    """
    if in_use():
        output.note("simulator: compiled modules (make compiled)")
    elif is_current():
        path = os.pathsep.join([str(SITE), *filter(None, [environment.get("PYTHONPATH")])])
        command = [sys.executable, "-P", "-m", "services.cli", *sys.argv[1:]]
        os.execve(sys.executable, command, {**environment, "PYTHONPATH": path})
    elif STAMP.exists():
        output.note("simulator: interpreted; the compiled modules are of other sources (make compiled)")
