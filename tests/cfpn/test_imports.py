"""Imports point one way, and the library needs nothing beyond torch, numpy and pyarrow."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cfpn", "pipeline", "tune", "bench")
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in PACKAGES}


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES["cfpn"], ids=lambda path: path.name)
def test_the_library_imports_torch_numpy_pyarrow_and_the_standard_library_only(path: Path) -> None:
    assert imported(path) <= {"cfpn", "torch", "numpy", "pyarrow"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES["pipeline"], ids=lambda path: path.name)
def test_the_pipeline_imports_neither_tune_nor_bench(path: Path) -> None:
    assert not imported(path) & {"tune", "bench", "tests"}


@pytest.mark.parametrize("path", FILES["tune"], ids=lambda path: path.name)
def test_tune_does_not_import_bench(path: Path) -> None:
    assert not imported(path) & {"bench", "tests"}


def test_there_are_files_to_look_at() -> None:
    assert len(FILES["cfpn"]) > 5
    assert len(FILES["pipeline"]) > 5


def calls_at_import(path: Path) -> list[str]:
    """Statements at module level that do something: bare calls, loops, with blocks."""
    body = ast.parse(path.read_text()).body
    acts = [node for node in body if isinstance(node, ast.For | ast.While | ast.With | ast.Try)]
    acts += [node for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    return [f"{path.name}:{node.lineno}" for node in acts]


@pytest.mark.parametrize("path", FILES["cfpn"] + FILES["pipeline"], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_code_runs_at_import(path: Path) -> None:
    assert not calls_at_import(path)
