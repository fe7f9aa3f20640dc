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

# THE table. A module imports only from layers below its own; the modules of one sub-package, which
# is one entry here, may import each other. `__init__` is the public face, and nobody imports it.
LAYERS = (
    ("anchors", "files", "memory", "sequences", "signals", "stages", "volume"),
    (
        "bids",
        "check",
        "compilation",
        "config",
        "folds",
        "hdbet",
        "itk",
        "losses",
        "machine",
        "metrics",
        "nifti",
        "normalize",
        "orientation",
        "resample",
        "screen",
        "shipped",
        "significance",
        "stopping",
        "tissue",
        "windows",
        "workers",
    ),
    (
        "baselines",
        "bias",
        "cohort",
        "derivative",
        "examples",
        "inspection",
        "lesions",
        "networks",
        "program",
        "template",
        "viewer",
    ),
    (
        "brain",
        "checkpoint",
        "evaluate",
        "figures",
        "panels",
        "phantom",
        "predict",
        "report",
        "saliency",
        "sessions",
        "train",
    ),
    ("embedded", "methods", "parallel", "prepare", "summary"),
    ("fitting", "intake", "model"),
    ("crossval", "pages"),
    ("paper", "pipeline"),
    ("commands", "main"),
    ("cli",),
    ("__init__",),
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
OWNERS = {
    "nibabel": {"nifti", "orientation"},
    "orbax": {"checkpoint"},
    "SimpleITK": {"itk"},
}

PACKAGE = Path(flaxflair.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
each_module = pytest.mark.parametrize("source", SOURCES)


def entry_of(source: str) -> str:
    """`nifti.py` -> `nifti`, `networks/fcn.py` -> `networks`."""
    return Path(source).parts[0].removesuffix(".py")


def imported(source: str) -> Iterator[str]:
    """Yields the dotted name of everything imported, wherever in the module the import stands."""
    for node in ast.walk(ast.parse(SOURCES[source].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: import by full name, not relatively"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def home_of(name: list[str]) -> str:
    """Returns `nifti` for `flaxflair.nifti.read_volume` and for `flaxflair.read_volume`."""
    entry = name[1] if len(name) > 1 else "__init__"
    return entry if entry in LAYER_OF else flaxflair._HOME.get(entry, "__init__")


@each_module
def test_every_module_has_a_place_in_the_table(source: str):
    assert entry_of(source) in LAYER_OF


@each_module
def test_a_module_imports_only_from_the_layers_below_it(source: str):
    own = entry_of(source)
    ours = (name.split(".") for name in imported(source) if name.split(".")[0] == "flaxflair")
    upward = {name for name in map(home_of, ours) if LAYER_OF[name] >= LAYER_OF[own]}
    assert upward <= {own}


@each_module
def test_a_library_that_is_walled_off_is_imported_by_its_own_modules(source: str):
    packages = {name.split(".")[0] for name in imported(source)}
    assert all(entry_of(source) in OWNERS[name] for name in packages & set(OWNERS))


@each_module
def test_every_module_says_what_it_does(source: str):
    assert ast.get_docstring(ast.parse(SOURCES[source].read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", [n for n in ("flaxflair", "flaxflair.cli") if find_spec(n)])
def test_importing_the_package_or_its_command_line_does_not_import_jax(name: str):
    code = f"import sys, {name}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", flaxflair.__all__)
def test_a_public_name_is_what_its_module_defines_even_where_a_module_bears_that_name(name: str):
    module = importlib.import_module(f"flaxflair.{flaxflair._HOME[name]}")
    if name in LAYER_OF:
        importlib.import_module(f"flaxflair.{name}")
    assert getattr(flaxflair, name) is getattr(module, name)
    assert name in dir(flaxflair)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(flaxflair, "nothing")  # noqa: B009
