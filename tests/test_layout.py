"""Files and functions that a reader can hold in mind, and imports that point one way."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES = {"cfpn": 200, "pipeline": 350, "tune": 350, "bench": 350}  # at most, of a file
FUNCTION = 45  # lines at most, of a function
ALONE = {"cfpn", "torch", "numpy", "pyarrow", "safetensors"} | sys.stdlib_module_names
ABOVE = {"pipeline": {"tune", "bench"}, "tune": {"bench"}}  # what a package must not import
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in LINES}
every_file = pytest.mark.parametrize(
    "path", [path.relative_to(ROOT) for files in FILES.values() for path in files], ids=str
)


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


def test_there_are_files_to_look_at() -> None:
    assert len(FILES["cfpn"]) > 5
    assert len(FILES["pipeline"]) > 5


@every_file
def test_no_file_is_longer_than_its_package_allows(path: Path) -> None:
    length = len((ROOT / path).read_text().splitlines())
    assert length <= LINES[path.parts[0]]


@every_file
def test_no_function_is_longer_than_a_page(path: Path) -> None:
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f"{node.name}:{node.lineno}": node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > FUNCTION} == {}


@pytest.mark.parametrize("path", FILES["cfpn"], ids=lambda path: path.name)
def test_the_library_imports_torch_numpy_pyarrow_safetensors_and_the_standard_library_only(path: Path) -> None:
    assert imported(path) <= ALONE


@every_file
def test_no_file_imports_a_package_above_its_own_or_a_test(path: Path) -> None:
    above = ABOVE.get(path.parts[0], set()) | {"tests"}
    assert imported(ROOT / path) & above == set()


def calls_at_import(path: Path) -> list[str]:
    """Statements at module level that do something: bare calls, loops, with blocks."""
    body = ast.parse(path.read_text()).body
    acts = [node for node in body if isinstance(node, ast.For | ast.While | ast.With | ast.Try)]
    acts += [node for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    return [f"{path.name}:{node.lineno}" for node in acts]


@pytest.mark.parametrize("path", FILES["cfpn"] + FILES["pipeline"], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_code_runs_at_import(path: Path) -> None:
    assert not calls_at_import(path)


@every_file
def test_every_command_has_the_common_parser_and_with_it_an_example(path: Path) -> None:
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    made = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "ArgumentParser"]
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    assert path.name == "process.py" or not any(call in made for call in calls)
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command_line":
            assert len(node.args) == 3
