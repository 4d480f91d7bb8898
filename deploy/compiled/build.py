"""Compiles the simulator, and the very scheduler, router and hand-off that it runs; `make compiled` runs it.

mypyc makes C of typed Python. Nothing needs it: `triptych simulate` and `triptych plan` take the compiled modules if
they are of the sources as they are.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

from deploy.compiled.dataclass_methods import written_out
from services.cli.compiled import FOLDER, PACKAGES, ROOT, SITE, STAMP, digest, is_current, modules

SOURCES = FOLDER / "source"
"""What the compiler reads: modules with the methods of their dataclasses, and links to all others."""


def mirror(target: Path, apart: list[Path]) -> None:
    """A tree of links to the sources, but those that stand apart."""
    packages = [ROOT / "services" / name for name in PACKAGES]
    entries = [path for path in (ROOT / "services").iterdir() if path not in packages]
    entries += [path for folder in packages for path in folder.iterdir() if path.relative_to(ROOT) not in apart]
    for path in [*entries, ROOT / "kernels", ROOT / "loadgen"]:
        if path.name != "__pycache__":
            link = target / path.relative_to(ROOT)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)


class BuildSideBySide(build_ext):
    """Compiles the files of a library side by side: nearly all are of one."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link."""
        options = {"include_dirs": ext.include_dirs, "extra_postargs": ext.extra_compile_args}

        def compiled(source: str) -> list[str]:
            return self.compiler.compile([source], output_dir=self.build_temp, **options)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = [each for found in pool.map(compiled, ext.sources) for each in found]
        ext.sources = []
        super().build_extension(ext)


def compile_into(site: Path, paths: list[Path]) -> None:
    """Check, translate to C and compile; runs in the folder of the sources."""
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(FOLDER / "mypy")]
    # -O1 is quick to compile, and most of the time is spent in the interpreter's own containers anyway.
    extensions = mypycify(
        [*options, *map(str, paths)], opt_level="1", debug_level="0", multi_file=True, group_name="triptych"
    )
    jobs = ["--parallel", str(os.cpu_count() or 1)]
    command = ["--quiet", "build_ext", "--build-lib", str(site), "--build-temp", str(FOLDER / "objects"), *jobs]
    build = {"build_ext": BuildSideBySide}
    setup(name="triptych-compiled", packages=[], ext_modules=extensions, script_args=command, cmdclass=build)


def main() -> int:
    """Compile, unless it is done."""
    if is_current():
        print(f"compiled: {SITE.relative_to(ROOT)} is of these sources")
        return 0
    begun, now, paths = time.monotonic(), digest(), modules()
    shutil.rmtree(FOLDER, ignore_errors=True)
    for path in paths:
        (SOURCES / path).parent.mkdir(parents=True, exist_ok=True)
        (SOURCES / path).write_text(written_out((ROOT / path).read_text(encoding="utf-8")), encoding="utf-8")
    mirror(SOURCES, paths)
    print("compiled: about a minute; every core of this machine is used")
    os.chdir(SOURCES)
    with (FOLDER / "log").open("w", encoding="utf-8") as log, redirect_stdout(log):
        compile_into(SITE, paths)
    mirror(SITE, paths)
    STAMP.write_text(now, encoding="utf-8")
    seconds = time.monotonic() - begun
    print(f"compiled: {len(paths)} modules in {seconds:.0f} s; `triptych simulate` and `plan` use them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
