"""Negative controls: a small clean tree passes every guard, and each planted violation is caught by its own."""

import shutil
from pathlib import Path

import pytest

from tests.architecture import guards
from tests.architecture.test_tree import GUARDS, ROOT


def write(root: Path, name: str, text: str) -> None:
    """Write one file of the small tree; a file not yet listed in its folder's `__init__` is added there."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the folders, `__init__` files and configuration of the real tree, with a file or two of code."""
    for name in (".importlinter", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for path in [path for top in guards.SOURCE for path in (ROOT / top).rglob("__init__.py")]:
        write(
            tmp_path,
            guards.name_of(ROOT, path),
            '"""A folder: clock.py config.py flow.py proposers console synth plan replan."""\n',
        )
    packages = [path for path in sorted((tmp_path / "services").iterdir()) if path.is_dir()]
    listing = " ".join(path.name for path in packages)
    write(tmp_path, "services/__init__.py", f'"""Folders: {listing}."""\n')
    write(tmp_path, "services/core/clock.py", '"""Time."""\n\nimport time\n\nnow = time.monotonic\n')
    write(
        tmp_path, "services/router/config.py", '"""Configuration."""\n\nimport pydantic\n\nBase = pydantic.BaseModel\n'
    )
    write(tmp_path, "services/router/flow.py", '"""A flow."""\n\nfrom services.router.config import Base\n\nx = Base\n')
    return tmp_path


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_a_clean_tree_passes(tree: Path, guard) -> None:
    assert guard(tree) == []


# (guard, file, its text, what the one violation says)
PLANTED = [
    (guards.rings, "services/decode/stage.py", "import ray\n", "a pure file imports ray"),
    (guards.rings, "services/decode/stage.py", "def f():\n    import torch.nn\n", "a pure file imports torch.nn"),
    (guards.rings, "services/decode/stage.py", "import pydantic\n", "a pure file imports pydantic"),
    (guards.rings, "services/core/ports.py", "import asyncio\n", "a pure file imports asyncio"),
    (guards.rings, "services/core/ports.py", "from threading import Lock\n", "a pure file imports threading.Lock"),
    (guards.rings, "services/worker/actor.py", "import time\n", "imports time; only services/core/clock.py does"),
    (
        guards.rings,
        "services/router/pickers.py",
        "from random import choice\n",
        "imports random; only services/core/seeds.py",
    ),
    (
        guards.rings,
        "services/router/view.py",
        "from services import engine\n",
        "imports services/engine/, which does IO",
    ),
    (
        guards.rings,
        "services/router/view.py",
        "from ..engine import model\n",
        "imports services/engine/, which does IO",
    ),
    (guards.rings, "services/router/view.py", "from services.pb import x\n", "imports services/pb/, which does IO"),
    (guards.rings, "services/router/view.py", "import kernels.dispatch\n", "imports kernels/, which does IO"),
    (guards.rings, "kernels/rotary.py", "import ray\n", "a kernel file imports ray"),
    (guards.hidden_inputs, "services/engine/model.py", "import os\nx = os.environ['A']\n", "reads os.environ outside"),
    (guards.hidden_inputs, "services/engine/model.py", "import os\nx = os.getenv('A')\n", "reads os.getenv outside"),
    (guards.hidden_inputs, "services/engine/model.py", "from os import environ\n", "imports os.environ"),
    (guards.hidden_inputs, "loadgen/page.py", "import datetime\nx = datetime.datetime.now()\n", "reads the wall clock"),
    (
        guards.hidden_inputs,
        "services/sim/faults.py",
        "import numpy as np\nx = np.random.rand()\n",
        "uses np.random.rand",
    ),
    (guards.unlayered, "services/novelty/__init__.py", "", "services.novelty has no layer"),
    (guards.unlayered, "services/novelty/__init__.py", "", "services.novelty has no budget"),
    (guards.sizes, "services/decode/stage.py", "x = 1\n" * 400, "services/decode/stage.py: 401 lines, at most 400"),
    (guards.sizes, "services/encode/stage.py", "x = 1\n" * 399, "services/encode: 401 lines, at most"),
    (guards.sizes, "services/worker/actor.py", "x = 1\n" * 150, "services/worker/actor.py: 151 lines, at most 150"),
    (guards.sizes, "services/decode/stage.py", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines, at most 60"),
    (guards.inits, "services/decode/intake.py", "", "services/decode/__init__.py: does not list intake.py"),
    (guards.inits, "services/decode/novelty/config.py", "", "services/decode/novelty: no __init__.py"),
    (
        guards.stdlib_names,
        "services/core/queue.py",
        "",
        "services/core/queue.py: the name of a standard-library module",
    ),
    (
        guards.stdlib_names,
        "services/profile/__init__.py",
        "",
        "services/profile: the name of a standard-library module",
    ),
    (guards.strays, "proto/triptych/v1/names.py", "", "Python in proto/"),
    (guards.strays, "tests/unit/__init__.py", "", "__init__ in tests/"),
    (guards.remote_decorators, "services/worker/actor.py", "@ray.remote\nclass A: pass\n", "decorated with ray.remote"),
    (
        guards.remote_decorators,
        "services/worker/actor.py",
        "@ray.remote(num_cpus=1)\nclass A: pass\n",
        "ray.remote(num_cpus=1)",
    ),
    (
        guards.swallowed_cancels,
        "services/worker/actor.py",
        "import asyncio\n\n\nasync def f(g): await asyncio.wait_for(g, 1)\n",
        "calls asyncio.wait_for",
    ),
    (guards.glossary, "services/decode/stage.py", "def run_context_stage(): pass\n", "the word is prefill"),
    (
        guards.glossary,
        "services/decode/stage.py",
        "class KvHandOff: pass\n",
        "KvHandOff says hand_off; the word is handoff",
    ),
    (guards.glossary, "services/decode/stage.py", "def f(lease_timeout_s): pass\n", "the word is lease ttl"),
    (guards.glossary, "services/frontdoor/gateway.py", "", "gateway says gateway; the word is frontdoor"),
    (guards.simulator_modules, "services/sim/cluster.py", "import asyncio\n", "services.sim loads asyncio"),
]


@pytest.mark.parametrize(
    ("guard", "name", "text", "message"), PLANTED, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_planted_violation_is_caught(tree: Path, guard, name: str, text: str, message: str) -> None:
    write(tree, name, '"""Planted."""\n' + text)
    assert any(message in line for line in guard(tree)), guard(tree)


def test_a_module_without_a_docstring_is_caught(tree: Path) -> None:
    write(tree, "services/core/errors.py", "x = 1\n")
    assert guards.docstrings(tree) == ["services/core/errors.py: no docstring"]


def test_an_init_with_code_is_caught(tree: Path) -> None:
    write(tree, "services/decode/__init__.py", '"""A folder."""\nimport ray\n')
    assert guards.inits(tree) == ["services/decode/__init__.py: must be one docstring and nothing else"]


def test_the_kernels_distribution_is_caught(tree: Path) -> None:
    with (tree / "constraints.txt").open("a") as file:
        file.write("kernels==0.9.0\nkernels-data==1.0\n")
    assert guards.kernels_distribution(tree) == ["constraints.txt: kernels==0.9.0"]


def test_an_env_read_and_a_clock_in_a_main_file_differ(tree: Path) -> None:
    write(tree, "services/cli/__main__.py", '"""Planted."""\nimport os\nimport time\nx = os.environ["A"]\n')
    assert guards.hidden_inputs(tree) == []
    assert guards.rings(tree) == ["services/cli/__main__.py:3: imports time; only services/core/clock.py does"]


def test_each_import_contract_is_broken_by_its_own_violation(tree: Path) -> None:
    """One run over one tree with a violation for each contract, and siblings and layers both ways."""
    write(tree, "services/decode/stage.py", '"""Planted."""\nimport services.prefill.stage\n')
    write(tree, "services/prefill/stage.py", '"""Planted."""\nimport ray\n')
    write(tree, "services/core/batch.py", '"""Planted."""\nimport torch\n')
    write(tree, "services/router/view.py", '"""Planted."""\nimport loadgen\n')
    write(tree, "services/sim/cluster.py", '"""Planted."""\nimport services.cluster.launch\n')
    write(tree, "services/cluster/launch.py", '"""Planted."""\nimport grpc\n')
    write(tree, "kernels/rotary.py", '"""Planted."""\nimport services.core\n')
    found = "\n".join(guards.layers(tree))
    for contract in (
        "layers BROKEN",
        "decisions reach no IO library BROKEN",
        "the simulator reaches no IO library BROKEN",
        "kernels know nothing of the system BROKEN",
    ):
        assert contract in found
    for chain in (
        "services.decode.stage -> services.prefill.stage",
        "services.prefill.stage -> ray",
        "services.core.batch -> torch",
        "services.router.view -> loadgen",
        "services.cluster.launch -> grpc",
        "kernels.rotary -> services.core",
    ):
        assert chain in found, found


@pytest.mark.parametrize("name", ["services/semcache/store.py", "services/draft/training.py"])
def test_an_io_file_may_do_io_and_no_pure_file_may_import_it(tree: Path, name: str) -> None:
    write(tree, name, '"""Planted."""\nimport redis\nimport torch\n')
    assert guards.layers(tree) == []
    assert guards.rings(tree) == []
    module = name.removesuffix(".py").replace("/", ".")
    write(tree, "services/router/flow.py", f'"""Planted."""\nimport {module}\n')
    assert any("which does IO" in line for line in guards.rings(tree))


@pytest.mark.parametrize("folder", ["unit", "property"])
def test_a_unit_test_that_imports_torch_is_caught(tree: Path, folder: str) -> None:
    write(tree, "torch.py", '"""Stands for torch, without its weight."""\n')
    write(tree, f"tests/{folder}/test_planted.py", '"""Planted."""\nimport torch\n')
    assert guards.unit_imports(tree) == ["collecting the unit tests loads torch"]
