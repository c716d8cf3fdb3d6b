"""Claims about dvc.yaml: a stage reruns when code that it really uses changes."""

import ast
import json
import re
import shutil
import subprocess
import sys
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


def tables(stage: dict) -> set[str]:
    """Names of the files that a stage writes."""
    outputs = [one for kind in ("outs", "metrics", "plots") for one in stage.get(kind, [])]
    return {(one if isinstance(one, str) else next(iter(one))).rpartition("/")[2] for one in outputs}


def test_every_sweep_of_the_project_is_a_stage_and_every_table_of_it_an_output() -> None:
    own = YAML(typ="safe").load(ROOT / "sweeps/dvc.yaml")["stages"]
    names = YAML(typ="safe").load(ROOT / "params.yaml")["sweeps"]
    assert {*own["sweep"]["matrix"]["name"], "models"} == set(names)
    common = {"trials.csv", "epochs.csv", "curves.csv", "timing.csv", "metrics.json", "sweep.json"}
    assert tables(own["sweep"]) == common
    assert tables(own["models"]) == common | {"models.csv"}
    assert tables(own["cost"]) == {"cost.csv"}


def test_dvc_draws_a_line_for_every_setting_of_a_sweep(tmp_path: Path) -> None:
    def dvc(*arguments: str) -> None:
        tool = Path(sys.executable).with_name("dvc")
        subprocess.run([tool, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=120)

    dvc("init", "--no-scm", "-q")
    shutil.copytree(ROOT / ".dvc/plots", tmp_path / ".dvc/plots")
    (plot,) = YAML(typ="safe").load(ROOT / "sweeps/dvc.yaml")["stages"]["models"]["plots"]
    ((path, options),) = plot.items()
    options.pop("cache")
    YAML().dump({"plots": [{path: options}]}, tmp_path / "dvc.yaml")
    (tmp_path / path).parent.mkdir(parents=True)
    rows = [f"{name},{epoch},1,0.{epoch}" for name in ("A", "B") for epoch in (1, 2)]
    (tmp_path / path).write_text("\n".join(["setting,epoch,n,val/accuracy/mean", *rows]))
    dvc("plots", "show", "-q", "-o", "page")
    (found,) = re.findall(r"var spec = (.*);\n", (tmp_path / "page/index.html").read_text())
    spec = json.loads(found)
    wanted = {"x": "epoch", "y": "val/accuracy/mean", "color": "setting", "strokeDash": "rev"}
    assert {name: spec["encoding"][name]["field"] for name in wanted} == wanted
    assert [f"{row['setting']}{row['epoch']}" for row in spec["data"]["values"]] == ["A1", "A2", "B1", "B2"]
