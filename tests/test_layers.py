"""The architecture, enforced: which module may import which."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import flaxflair

# THE table. A package imports only from packages of the rows above its own, and from itself.
# `__init__` is the public face, and nobody imports it.
LAYERS = (
    ("core",),
    ("imaging", "parsers", "runtime"),
    ("config",),
    ("baselines", "configs", "evaluation", "io", "networks"),
    ("models", "preprocessing", "simulation"),
    ("training", "visualization"),
    ("pipelines",),
    ("console", "main", "paper"),
    ("commands",),
    ("cli",),
    ("__init__",),
)
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}
OWNERS = {
    "nibabel": {"io/nifti.py", "io/nifti_header.py", "imaging/orientation.py"},
    "orbax": {"models/checkpoints.py"},
    "SimpleITK": {"preprocessing/registration.py"},
}

PACKAGE = Path(flaxflair.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
each_module = pytest.mark.parametrize("source", SOURCES)


def package_of(path: str) -> str:
    """`io/nifti.py` -> `io`, `cli.py` -> `cli`."""
    return Path(path).parts[0].removesuffix(".py")


def imported(source: str) -> Iterator[str]:
    """Yields the dotted name of everything imported, wherever in the module the import stands."""
    for node in ast.walk(ast.parse(SOURCES[source].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: import by full name, not relatively"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@each_module
def test_a_package_imports_only_from_packages_below_it(source: str):
    own = package_of(source)
    ours = [name.split(".") for name in imported(source) if name.split(".")[0] == "flaxflair"]
    others = {name[1] if name[1] in FLOOR else "__init__" for name in ours} - {own}
    assert {name for name in others if FLOOR[name] >= FLOOR[own]} == set()


@each_module
def test_a_library_that_is_walled_off_is_imported_by_its_own_modules(source: str):
    packages = {name.split(".")[0] for name in imported(source)}
    assert all(source in OWNERS[name] for name in packages & set(OWNERS))


@each_module
def test_every_module_says_what_it_does(source: str):
    assert ast.get_docstring(ast.parse(SOURCES[source].read_text(encoding="utf-8")))


@each_module
def test_no_module_is_longer_than_400_lines_and_no_function_than_60(source: str):
    text = SOURCES[source].read_text(encoding="utf-8")
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(text.splitlines()) <= 400
    assert {f.name: n for f in functions if (n := (f.end_lineno or 0) - f.lineno + 1) > 60} == {}


@pytest.mark.parametrize("name", [n for n in ("flaxflair", "flaxflair.cli") if find_spec(n)])
def test_importing_the_package_or_its_command_line_does_not_import_jax(name: str):
    code = f"import sys, {name}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", flaxflair.__all__)
def test_a_public_name_is_what_its_module_defines(name: str):
    module = importlib.import_module(f"flaxflair.{flaxflair._HOME[name]}")
    assert getattr(flaxflair, name) is getattr(module, name)
    assert name in dir(flaxflair)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(flaxflair, "nothing")  # noqa: B009
