"""The package as users get it: the wheel runs without the repository around it, and the names at the top are lazy."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import jaxtyping
import pytest
import torch

import prune2vec
from prune2vec.forward.pooling import pool

ROOT = Path(__file__).parent.parent
# Released together with the package that it is the core of.
PARTS_OF_OTHERS = {"pydantic_core"}
# Used where the user has it, and named where not: compiled for some machines alone, and only to check a GGUF file.
WHERE_INSTALLED = {"xllamacpp"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the installed build backend (no network) and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    probe = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", probe, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("prune2vec-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_there(site: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python on the unpacked wheel and its dependencies, with the editable install of the repository switched off."""
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *dependencies])}
    # -S: no .pth files, so the editable install does not point back into the repository.
    return subprocess.run([sys.executable, "-S", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_runs_without_the_repository(unpacked: Path, tmp_path: Path) -> None:
    done = run_there(unpacked, "-m", "prune2vec", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage: prune2vec" in done.stdout
    where = run_there(unpacked, "-c", "import prune2vec; print(prune2vec.__file__, prune2vec.__version__)", cwd=tmp_path)
    file, number = where.stdout.split()
    assert Path(file).is_relative_to(unpacked)
    assert number == prune2vec.__version__


def test_a_verb_of_the_wheel_works(unpacked: Path, tmp_path: Path) -> None:
    done = run_there(unpacked, "-m", "prune2vec", "demo", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "profile" in done.stdout


def test_the_wheel_holds_all_and_only_the_package(unpacked: Path) -> None:
    source = ROOT / "src" / "prune2vec"
    wanted = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(source).parts)
    }
    # By the archive: a process that imports the unpacked package writes bytecode into it.
    (wheel,) = unpacked.parent.glob("prune2vec-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    packed = {name.removeprefix("prune2vec/") for name in names if name.startswith("prune2vec/")}
    assert packed == wanted
    assert {"py.typed", "experiments/demo.yaml", "experiments/report.html"} <= packed
    assert {name.partition("/")[0] for name in names} == {"prune2vec", f"prune2vec-{prune2vec.__version__}.dist-info"}


def test_the_wheel_has_the_licence_and_the_command(unpacked: Path) -> None:
    (info,) = unpacked.glob("*.dist-info")
    assert (info / "licenses" / "LICENSE").exists()
    assert "prune2vec = prune2vec.cli.app:entry" in (info / "entry_points.txt").read_text(encoding="utf-8")


def test_every_import_is_declared() -> None:
    """Nothing works by the luck of another package's dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name in ("gguf", "eval", "onnx", "qlora", "ray") for line in project["optional-dependencies"][name]]
    declared = {normal(line) for line in [*project["dependencies"], *extras]}
    owners = packages_distributions()
    foreign = (
        {name for path in (ROOT / "src").rglob("*.py") for name in imports(path)}
        - sys.stdlib_module_names
        - {"prune2vec", *PARTS_OF_OTHERS, *WHERE_INSTALLED}
    )
    undeclared = {name for name in foreign if not {normal(owner) for owner in owners.get(name, [name])} & declared}
    assert not undeclared


def normal(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].replace("_", "-").lower()


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_one_version() -> None:
    assert prune2vec.__version__ == version("prune2vec")
    assert f'version = "{prune2vec.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_importing_the_package_imports_nothing_heavy() -> None:
    probe = "import sys, prune2vec; print([m for m in ('torch', 'pydantic', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(prune2vec.__all__) - {"__version__"}))
def test_every_public_name_is_there(name: str) -> None:
    assert callable(getattr(prune2vec, name))
    assert name in dir(prune2vec)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prone'"):
        _ = prune2vec.prone


def test_shapes_in_signatures_are_checked_in_tests() -> None:
    """The option --jaxtyping-packages is at work: without it this call would fail later, or not at all."""
    with pytest.raises(jaxtyping.TypeCheckError):
        pool(torch.zeros(2, 3, 4), torch.zeros(3, 3))
