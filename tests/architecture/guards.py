"""The rules of the tree as functions: each takes a root folder and returns its violations, one line for each."""

import ast
import configparser
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

SOURCE = ("services", "kernels", "loadgen")
GENERATED = "services/pb"

# ------------------------------------------------------------------ reading the tree


def source_files(root: Path) -> list[Path]:
    """Every Python file of ours under `root`, generated code excluded, in name order."""
    files = [path for top in SOURCE for path in sorted((root / top).rglob("*.py"))]
    return [path for path in files if not name_of(root, path).startswith(GENERATED + "/")]


def name_of(root: Path, path: Path) -> str:
    """The path relative to `root`, with forward slashes."""
    return path.relative_to(root).as_posix()


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file; a file that does not parse fails the calling test with its path."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in the file; `from a import b` yields `a.b`, relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


# ------------------------------------------------------------------ rings

IO_FOLDERS = ("services/engine/", "services/telemetry/", "services/worker/", "services/frontdoor/", "services/cli/")
IO_FILES = (
    *("store.py", "embedder.py", "ann.py", "launch.py", "supervise.py", "app.py", "training.py", "search.py"),
    *("traces.py", "prompts.py", "page.py", "plots.py", "targets.py", "replay.py", "__main__.py"),
)
# Pure although they stand in a shell's folder: configuration, the worker's composition, the order of a token stream.
PURE_FILES = ("config.py", "assemble.py", "stream.py")
# Randomness, time, threads, processes, sockets: what a pure file must not import of the standard library.
RANDOM = ("random", "secrets", "uuid")
IMPURE_STDLIB = (
    *("time", "asyncio", "concurrent", "multiprocessing", "queue", "sched", "subprocess", "threading", "_thread"),
    *(
        "http",
        "select",
        "selectors",
        "signal",
        "socket",
        "socketserver",
        "ssl",
        "urllib",
        "xmlrpc",
        "ftplib",
        "smtplib",
    ),
    *("ctypes", "mmap", "shelve", "sqlite3", "tempfile", *RANDOM),
)
PURE_STDLIB = frozenset(sys.stdlib_module_names) - frozenset(IMPURE_STDLIB)
ONLY_IMPORTER = {"time": "services/core/clock.py", "random": "services/core/seeds.py"}
KERNEL_LIBRARIES = frozenset({"torch", "triton", "numpy"})


def is_io(name: str) -> bool:
    """Whether the file of that relative path belongs to a shell or a root, by its folder or its file name."""
    base = name.rsplit("/", 1)[-1]
    return base not in PURE_FILES and (name.startswith((*IO_FOLDERS, GENERATED + "/")) or base in IO_FILES)


def rings(root: Path) -> list[str]:
    """Pure files import neither IO libraries nor IO files; one file owns the clock and one the random streams."""
    found = []
    for path in source_files(root):
        name = name_of(root, path)
        package = ".".join(path.parent.relative_to(root).parts)
        for line, module in imports_of(parse(path), package):
            reason = import_violation(root, name, module)
            if reason:
                found.append(f"{name}:{line}: {reason}")
    return found


def import_violation(root: Path, name: str, module: str) -> str:
    """Why the file `name` must not import `module`, or an empty string."""
    top = module.split(".")[0]
    if top in ONLY_IMPORTER:
        owner = ONLY_IMPORTER[top]
        return "" if name == owner else f"imports {top}; only {owner} does"
    if top in RANDOM and name == ONLY_IMPORTER["random"]:
        return ""
    if is_io(name) or top in PURE_STDLIB or top == "numpy":
        return ""
    if name.startswith("kernels/"):
        return "" if top in KERNEL_LIBRARIES | {"kernels"} else f"a kernel file imports {module}"
    if top in SOURCE:
        target = file_of(root, module)
        return f"a pure file imports {target}, which does IO" if is_io(target) or target.startswith("kernels/") else ""
    if top == "pydantic" and name.endswith("/config.py"):
        return ""
    return f"a pure file imports {module}"


def file_of(root: Path, module: str) -> str:
    """The relative path of the file or package folder that `module` (or the module that holds that name) stands for."""
    parts = module.split(".")
    while parts:
        base = root.joinpath(*parts)
        if base.with_suffix(".py").is_file():
            return name_of(root, base.with_suffix(".py"))
        if base.is_dir():
            return name_of(root, base) + "/"
        parts.pop()
    return module


def hidden_inputs(root: Path) -> list[str]:
    """No environment reads outside `__main__.py`, no wall clock of datetime, no global numpy random state."""
    found = []
    for path in source_files(root):
        name = name_of(root, path)
        for node in ast.walk(parse(path)):
            reason = hidden_input(name, node)
            if reason:
                found.append(f"{name}:{getattr(node, 'lineno', 0)}: {reason}")
    return found


def hidden_input(name: str, node: ast.AST) -> str:
    """Which hidden input the node reads, or an empty string."""
    if isinstance(node, ast.ImportFrom) and node.module == "os" and not name.endswith("__main__.py"):
        names = {alias.name for alias in node.names} & {"environ", "environb", "getenv"}
        return f"imports os.{min(names)}" if names else ""
    if not isinstance(node, ast.Attribute):
        return ""
    if ast.unparse(node) in {"os.environ", "os.environb", "os.getenv"} and not name.endswith("__main__.py"):
        return f"reads {ast.unparse(node)} outside __main__.py"
    owner = ast.unparse(node.value)
    if node.attr in {"now", "utcnow", "today"} and owner.split(".")[-1] in {"datetime", "date"}:
        return f"reads the wall clock with {ast.unparse(node)}; time comes from core/clock.py"
    if owner in {"np.random", "numpy.random"} and node.attr != "Generator" and name != ONLY_IMPORTER["random"]:
        return f"uses {ast.unparse(node)}; streams come from core/seeds.py"
    return ""


# ------------------------------------------------------------------ layers


def layers(root: Path) -> list[str]:
    """What import-linter says of the contracts in `root/.importlinter`: those broken, and the chains that do it."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    run = subprocess.run(
        [*command, "--config", str(root / ".importlinter"), "--no-cache", "--no-logo"],
        cwd=root,
        env={
            "PYTHONPATH": str(root),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 0:
        return []
    lines = [line.strip() for line in run.stdout.splitlines()]
    broken = [line for line in lines if line.endswith("BROKEN")]
    chains = [line for line in lines if "->" in line or "not allowed" in line]
    return [*broken, *chains] or [run.stdout + run.stderr]


def unlayered(root: Path) -> list[str]:
    """Every package stands in the layers contract and in the size budget; neither names one that does not exist."""
    contracts = configparser.ConfigParser()
    contracts.read(root / ".importlinter")
    layered = set(re.split(r"[\s|]+", contracts["importlinter:contract:layers"]["layers"].strip()))
    present = {"kernels", "loadgen"} | {
        f"services.{path.name}"
        for path in (root / "services").iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    budgeted = {name.replace("/", ".") for name in budget(root)["packages"]} | {GENERATED.replace("/", ".")}
    return [
        *(f"{name} has no layer in .importlinter" for name in sorted(present - layered)),
        *(f".importlinter names {name}, which does not exist" for name in sorted(layered - present)),
        *(f"{name} has no budget in pyproject.toml" for name in sorted(present - budgeted)),
        *(f"the budget names {name}, which does not exist" for name in sorted(budgeted - present)),
    ]


# ------------------------------------------------------------------ sizes


def budget(root: Path) -> dict:
    """The table `tool.triptych.budget` of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["triptych"]["budget"]


def sizes(root: Path) -> list[str]:
    """Files, functions, actor.py and package totals stay within the budget; physical lines."""
    limits = budget(root)
    totals = dict.fromkeys(limits["packages"], 0)
    found = []
    for path in source_files(root):
        name = name_of(root, path)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        limit = limits["actor_lines"] if path.name == "actor.py" else limits["file_lines"]
        if lines > limit:
            found.append(f"{name}: {lines} lines, at most {limit}")
        for package in totals:
            totals[package] += lines if name.startswith(package + "/") else 0
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > limits["function_lines"]:
                    found.append(
                        f"{name}:{node.lineno}: {node.name} has {length} lines, at most {limits['function_lines']}"
                    )
    over = [(package, total) for package, total in totals.items() if total > limits["packages"][package]]
    return found + [f"{package}: {total} lines, at most {limits['packages'][package]}" for package, total in over]


# ------------------------------------------------------------------ modules and folders


def docstrings(root: Path) -> list[str]:
    """Every module opens with a docstring."""
    return [f"{name_of(root, path)}: no docstring" for path in source_files(root) if not ast.get_docstring(parse(path))]


def inits(root: Path) -> list[str]:
    """Every folder with code has an `__init__.py` that is a docstring, naming each file and folder beside it."""
    found = []
    for folder in sorted({path.parent for path in source_files(root)}):
        init = folder / "__init__.py"
        if not init.is_file():
            found.append(f"{name_of(root, folder)}: no __init__.py")
            continue
        tree = parse(init)
        text = ast.get_docstring(tree)
        if text is None or len(tree.body) != 1:
            found.append(f"{name_of(root, init)}: must be one docstring and nothing else")
            continue
        listed = set(re.findall(r"\w+(?:\.\w+)*", text))
        beside = [path.name for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        beside += [path.parent.name for path in sorted(folder.glob("*/__init__.py"))]
        found += [
            f"{name_of(root, init)}: does not list {name}"
            for name in beside
            if not {name, name.removesuffix(".py")} & listed
        ]
    return found


def stdlib_names(root: Path) -> list[str]:
    """No file and no folder bears the name of a standard-library module."""
    taken = frozenset(sys.stdlib_module_names)
    files = [path for path in source_files(root) if path.stem in taken]
    folders = [path for top in SOURCE for path in sorted((root / top).rglob("*/")) if path.name in taken]
    return [f"{name_of(root, path)}: the name of a standard-library module" for path in files + folders]


def strays(root: Path) -> list[str]:
    """No Python in proto/ (proto-plus owns that name) and no `__init__.py` under tests/."""
    found = [f"{name_of(root, path)}: Python in proto/" for path in sorted((root / "proto").rglob("*.py*"))]
    return found + [
        f"{name_of(root, path)}: __init__ in tests/" for path in sorted((root / "tests").rglob("__init__.py"))
    ]


def kernels_distribution(root: Path) -> list[str]:
    """The distribution `kernels` of PyPI has our package's name and must never be asked for."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [f"constraints.txt: {line}" for line in lines if re.match(r"kernels\b(?!-)", line.strip(), re.IGNORECASE)]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    wanted = [*project.get("dependencies", []), *(line for extra in extras for line in extra)]
    return found + [f"pyproject.toml: {line}" for line in wanted if re.match(r"kernels\b(?!-)", line, re.IGNORECASE)]


def remote_decorators(root: Path) -> list[str]:
    """`ray.remote` is applied in cluster/launch.py, never as a decorator of a class."""
    found = []
    for path in source_files(root):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                marks = [ast.unparse(mark) for mark in node.decorator_list]
                found += [
                    f"{name_of(root, path)}:{node.lineno}: class {node.name} is decorated with {mark}"
                    for mark in marks
                    if mark.split("(")[0] in {"ray.remote", "remote"}
                ]
    return found


def swallowed_cancels(root: Path) -> list[str]:
    """`asyncio.wait_for` is not called: before Python 3.12 it swallows a cancel that comes as its future ends."""
    return [
        f"{name_of(root, path)}:{node.lineno}: calls asyncio.wait_for; use `async with asyncio.timeout(...)`"
        for path in source_files(root)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.wait_for"
    ]


# ------------------------------------------------------------------ glossary

# One word per concept: left what an identifier must not say, right what it says; snake_case and CamelCase alike.
GLOSSARY = {
    "context_stage": "prefill",
    "context_worker": "prefill",
    "context_phase": "prefill",
    "generation_stage": "decode",
    "generation_worker": "decode",
    "handover": "handoff",
    "hand_off": "handoff",
    "kv_migration": "handoff",
    "kv_bridge": "handoff",
    "gateway": "frontdoor",
    "page_table": "block_table",
    "lease_timeout": "lease ttl",
    "lease_expiration": "lease ttl",
    "canceled": "cancelled",
    "canceling": "cancelling",
    "good_put": "goodput",
    "time_between_tokens": "itl",
}


def words_of(identifier: str) -> str:
    """`BlockTableView` and `block_table_view` alike as `_block_table_view_`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", identifier)
    return "_" + re.sub(r"_+", "_", spaced).strip("_").lower() + "_"


def identifiers_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of what a file defines or binds: classes, functions, arguments, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def glossary(root: Path) -> list[str]:
    """Identifiers that our packages define, names in proto/ and file names use the glossary's words."""
    names = [(name_of(root, path), 0, path.stem) for path in source_files(root)]
    for path in source_files(root):
        names += [(name_of(root, path), line, name) for line, name in identifiers_of(parse(path))]
    for path in sorted((root / "proto").rglob("*.proto")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            code = line.split("//")[0]
            names += [(name_of(root, path), number, name) for name in re.findall(r"[A-Za-z_]\w*", code)]
    return [
        f"{file}:{line}: {name} says {wrong}; the word is {right}"
        for file, line, name in names
        for wrong, right in GLOSSARY.items()
        if f"_{wrong}_" in words_of(name)
    ]


# ------------------------------------------------------------------ the simulator's imports

FORBIDDEN_IN_SIMULATOR = ("ray", "grpc", "redis", "torch", "triton", "asyncio", "prometheus_client", "opentelemetry")
SIMULATOR_PROBE = """
import importlib, pathlib, sys
import services.sim
for path in sorted(pathlib.Path(services.sim.__file__).parent.glob("*.py")):
    if path.stem not in ("__init__", "__main__", "search"):
        importlib.import_module("services.sim." + path.stem)
print(" ".join(sorted(set(sys.modules) & set({forbidden!r}))))
"""


def simulator_modules(root: Path) -> list[str]:
    """Forbidden libraries that importing the whole simulator, but its planner, really loads in a fresh interpreter."""
    probe = SIMULATOR_PROBE.format(forbidden=FORBIDDEN_IN_SIMULATOR)
    run = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=root,
        env={"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        return [run.stderr.strip()]
    return [f"services.sim loads {name}" for name in run.stdout.split()]


# ------------------------------------------------------------------ the unit tests' imports

UNIT_PROBE = """
import sys, pytest
code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "tests/unit", "tests/property"])
print("\\nLOADED", *sorted({"torch", "triton", "ray"} & set(sys.modules)))
sys.exit(0 if code in (0, 5) else 1)
"""


def unit_imports(root: Path) -> list[str]:
    """Collecting tests/unit and tests/property loads neither torch nor Ray."""
    for name in ("unit", "property"):
        (root / "tests" / name).mkdir(parents=True, exist_ok=True)
    run = subprocess.run(
        [sys.executable, "-c", UNIT_PROBE],
        cwd=root,
        env={"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = run.stdout.rsplit("LOADED", 1)
    if run.returncode or len(loaded) != 2:
        return [run.stdout + run.stderr]
    return [f"collecting the unit tests loads {name}" for name in loaded[1].split()]
