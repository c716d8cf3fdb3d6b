"""Claims about dvc.yaml: a stage reruns when code that it really uses changes."""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cfpn", "pipeline", "tune", "bench")
FILES = ("dvc.yaml", "sweeps/dvc.yaml")


def stages() -> list[tuple[str, dict]]:
    found = []
    for file in FILES:
        found += YAML(typ="safe").load(ROOT / file)["stages"].items()
    return found


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def imported(path: Path) -> set[Path]:
    """Files of the project that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {file for name in names if name.split(".")[0] in PACKAGES and (file := module_file(name))}


def used(entry: Path) -> set[Path]:
    """`entry` and all of the project that it reaches by imports."""
    reached, waiting = set(), [entry]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += imported(path)
    return reached


def entry(command: str) -> Path:
    module = re.search(r"python -m (\S+)", command)
    return module_file(module[1]) if module else ROOT / re.search(r"python (\S+\.py)", command)[1]


@pytest.mark.parametrize(("name", "stage"), stages(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_stage_depends_on_every_module_that_it_reaches(name: str, stage: dict) -> None:
    listed = [ROOT / dependency for dependency in stage["deps"] if "$" not in dependency]
    missing = [path for path in used(entry(stage["cmd"])) if not any(path.is_relative_to(dep) for dep in listed)]
    assert not missing, f"{name}: {sorted(str(path.relative_to(ROOT)) for path in missing)}"


@pytest.mark.parametrize(("name", "stage"), stages(), ids=lambda value: value if isinstance(value, str) else "")
def test_code_that_a_stage_depends_on_exists(name: str, stage: dict) -> None:
    code = [dependency for dependency in stage["deps"] if dependency.split("/")[0] in PACKAGES]
    assert code and all((ROOT / dependency).exists() for dependency in code), name
