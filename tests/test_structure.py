"""The house: each room imports only what is below it, and no module comes back to itself."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from blocked_imports import run_blocking

import sedona_nni

ROOT = Path(__file__).parents[1]

# What each room may import beside itself, from the ground up. What lies in no room is the ground.
LIBRARY: dict[str, set[str]] = {
    "ground": set(),
    "models": {"ground"},
    "teachers": {"ground", "models"},
    "decouplings": {"ground", "models", "teachers"},
    "data": {"ground"},
    "training": {"ground", "models", "teachers", "decouplings", "data"},
    "searches": {"ground", "models", "teachers", "decouplings", "data", "training"},
    "reporting": {
        *("ground", "models", "teachers", "decouplings", "data", "training", "searches"),
    },
}
ROOMS: dict[str, set[str]] = {
    **LIBRARY,
    "testing": {*LIBRARY},  # suites for plug-ins, which need pytest
    "search_spaces": {*LIBRARY},
    "strategies": {*LIBRARY, "search_spaces"},
    "trials": {*LIBRARY, "search_spaces", "strategies"},
    "command_line": {*LIBRARY, "search_spaces", "strategies", "trials"},
}


def room(module: str) -> str:
    """Return where a module is."""
    first = [*module.split("."), ""][1]
    return first if first in ROOMS else "ground"


def modules() -> dict[str, Path]:
    """Return every module of the project's, by name."""
    found = {"sedona_nni": Path(sedona_nni.__path__[0]) / "__init__.py"}
    for each in pkgutil.walk_packages(sedona_nni.__path__, "sedona_nni."):
        path = Path(each.module_finder.path, each.name.rpartition(".")[2])  # type: ignore[union-attr]
        found[each.name] = path / "__init__.py" if each.ispkg else path.with_suffix(".py")
    return found


MODULES = modules()


def imports(module: str) -> Iterator[str]:
    """Yield the modules of ours that a module imports, at its top, late, or for type checkers."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                if inner in MODULES or node.module in MODULES:
                    yield inner if inner in MODULES else str(node.module)


ARROWS = {name: set(imports(name)) - {name} for name in MODULES}


def test_all_modules_are_seen() -> None:
    files = {
        path
        for room_ in ("sedona_nni", *(ROOMS.keys() - LIBRARY.keys()))
        for path in (ROOT / room_).rglob("*.py")
    }
    assert {path.resolve() for path in MODULES.values()} == {path.resolve() for path in files}
    assert {room(name) for name in MODULES} == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_no_arrow_goes_up(name: str) -> None:
    allowed = ROOMS[name] | {name}
    wrong = [
        f"{module} imports {other}"
        for module, others in ARROWS.items()
        # the door shows what is behind it
        if room(module) == name and module != "sedona_nni"
        for other in others
        if room(other) not in allowed
    ]
    assert not wrong


def test_no_circle() -> None:
    TopologicalSorter(ARROWS).prepare()  # else it names the circle


@pytest.mark.slow(reason="starts Python and imports PyTorch")
def test_the_library_needs_neither_nni_nor_lightning_nor_optuna() -> None:
    blocked = ["nni", "pytorch_lightning", "lightning", "optuna"]
    blocked += [f"sedona_nni.{name}" for name in ROOMS.keys() - LIBRARY.keys()]
    library = [name for name in MODULES if room(name) in LIBRARY]
    assert len(library) > 60
    code = f"""
        import importlib
        for name in {library!r}:
            importlib.import_module(name)
    """
    done = run_blocking(blocked, code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow(reason="two processes")
def test_a_blocked_import_would_be_noticed() -> None:
    done = run_blocking(["nni"], "import sedona_nni.strategies.nni_border.tuner")
    assert "No module named 'nni'" in done.stderr
    done = run_blocking(["sedona_nni.strategies"], "import sedona_nni.trials.study")
    assert "No module named 'sedona_nni.strategies" in done.stderr


# Private names of others, and why
EXCEPTIONS = {
    # The base of torch's batch norms has no public name
    "sedona_nni/models/batch_norm.py": {"_BatchNorm"},
    # The base of what sees each of torch's operators is public but for the name of its module; and
    # how torch chooses a kernel for attention, and the one that it chooses
    "sedona_nni/decouplings/dry_run.py": {
        *("_python_dispatch", "_fused_sdp_choice", "_scaled_dot_product_flash_attention_for_cpu"),
    },
    # torch has no public way to ask a module for its hooks
    "sedona_nni/models/hooks.py": {
        *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    },
    # Again the base of what sees operators; and torch's own count of what was written into a
    # tensor, for which it has no name
    "sedona_nni/models/cutting/values.py": {"_python_dispatch", "_version"},
    "sedona_nni/decouplings/decoupled.py": {"_version"},
    # As torch's weight norms call it
    "sedona_nni/searches/sedona/dual_operators.py": {"_weight_norm"},
    # Where a module's forward pass finds a weight; torch has no public way to put a dual there
    "sedona_nni/searches/sedona/inner_step.py": {"_parameters"},
    # NNI's faults are mended from outside, at the border to it
    "strategies/nni_border/nnictl.py": {"_start_rest_server", "_check_rest_server"},
    "strategies/nni_border/tuner.py": {
        *("_create_parameter_id", "_handle_intermediate_metric_data", "_trial_params"),
    },
    # What a process has loaded stays; a test's plug-ins are gone after it
    # Each test of a tuner is NNI's first
    "tests/strategies/conftest.py": {"_next_parameter_id", "_trial_params"},
    # NNI has no other way to ask for what its evaluator found
    "tests/strategies/test_one_shot.py": {"_engine"},
    # torch has no public name for either
    "benchmarks/parts.py": {"_python_dispatch"},
    "tests/support/dispatched.py": {"_python_dispatch"},
    "tests/searches/sedona/test_cuda_graphs.py": {"_is_zerotensor"},
    # Public, for all its name
    "benchmarks/hostile/server.py": {"_exit"},
    "tests/support/benchmark_sides.py": {"_exit"},
    "tests/training/parallel/test_feed.py": {"_exit"},
    "sedona_nni/training/parallel/__main__.py": {"_exit"},
    "sedona_nni/training/parallel/watch.py": {"_exit"},
}


def is_private(name: str) -> bool:
    return re.match(r"_(?!_|$)", name) is not None


def private_names_of_others(path: Path) -> set[str]:
    """Return the private names that a file uses and does not define."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    own, modules, used = set(), set(), set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in ("self", "cls"):
                own.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "object.__setattr__":
            own.add(ast.literal_eval(node.args[1]))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules |= {each.asname or each.name for each in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            parts = [*str(node.module).split("."), *(each.name for each in node.names)]
            used |= set(filter(is_private, parts))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if node.attr not in own or ast.unparse(node.value) in modules:
                used.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr"):
            given = [each.value for each in node.args if isinstance(each, ast.Constant)]
            parts = [part for text in given if isinstance(text, str) for part in text.split(".")]
            used |= set(filter(is_private, parts))
    return used


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    "folder", ["sedona_nni", *sorted(ROOMS.keys() - LIBRARY.keys()), "benchmarks", "docs", "tests"]
)
def test_nobody_uses_what_is_private_elsewhere(folder: str) -> None:
    wrong = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = str(path.resolve().relative_to(ROOT))
        allowed = EXCEPTIONS.get(name, set())
        used = private_names_of_others(path)
        assert used >= allowed
        if rest := used - allowed:
            wrong[name] = rest
    assert not wrong
