"""Claims about dvc.yaml and sweeps/dvc.yaml, read as files: what stages depend on, name and write."""

import ast
import functools
import hashlib
import json
import operator
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.inputs import WRITERS
from pipeline.params import load, load_sweeps, read
from pipeline.runs.about import CODE

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cfpn", "pipeline", "tune", "bench")
FILES = ("dvc.yaml", "sweeps/dvc.yaml")
# What decides no number: messages, whole files, bars, boards, units on several workers with the same bits as on one.
PLUMBING = (
    "pipeline/process.py", "pipeline/faults.py", "pipeline/sinks", "pipeline/runs/workers.py",
    "pipeline/runs/segment.py", "pipeline/runs/cluster.py", "pipeline/__init__.py",
    "pipeline/runs/__init__.py",
)  # fmt: skip


def stages(file: str) -> dict[str, dict[str, Any]]:
    return YAML(typ="safe").load(ROOT / file)["stages"]


STAGES = [(file, name, stage) for file in FILES for name, stage in stages(file).items()]
IDS = [f"{file}:{name}" for file, name, _ in STAGES]


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


def used(entries: list[Path]) -> set[Path]:
    """The entries and all of the project that they reach by imports."""
    reached: set[Path] = set()
    waiting = list(entries)
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += imported(path)
    return reached


def entries(stage: dict[str, Any]) -> list[Path]:
    """The files that a stage's commands run."""
    command = " ; ".join([stage["cmd"]] if isinstance(stage["cmd"], str) else stage["cmd"])
    modules = [module_file(name) for name in re.findall(r"python -m (\S+)", command)]
    return [path for path in modules if path] + [ROOT / name for name in re.findall(r"python (\S+\.py)", command)]


def dependencies(file: str, stage: dict[str, Any]) -> list[str]:
    """Paths from the root; code behind data/inputs.json stands for it."""
    folder = (ROOT / file).parent
    found = [str((folder / one).resolve().relative_to(ROOT)) for one in stage["deps"] if "$" not in one]
    return found + ([*CODE, *WRITERS] if "data/inputs.json" in found else [])


@pytest.mark.parametrize(("file", "name", "stage"), STAGES, ids=IDS)
def test_a_stage_depends_on_every_module_that_it_reaches(file: str, name: str, stage: dict[str, Any]) -> None:
    listed = [ROOT / one for one in (*dependencies(file, stage), *PLUMBING)]
    missing = {path for path in used(entries(stage)) if not any(path.is_relative_to(one) for one in listed)}
    assert not missing, sorted(str(path.relative_to(ROOT)) for path in missing)


@pytest.mark.parametrize(("file", "name", "stage"), STAGES, ids=IDS)
def test_code_that_a_stage_depends_on_exists(file: str, name: str, stage: dict[str, Any]) -> None:
    code = [one for one in dependencies(file, stage) if one.split("/")[0] in PACKAGES]
    assert code and all((ROOT / one).exists() for one in code)


def test_a_training_depends_on_the_hashes_of_its_inputs_alone() -> None:
    stage = stages("dvc.yaml")["train"]
    assert stage["deps"] == ["data/inputs.json"]
    keys = [one if isinstance(one, str) else next(iter(one)) for one in stage["params"]]
    assert keys == ["profile", "compute.device", "compute.threads", "methods.yaml", "profiles/${profile}.yaml"]
    assert "tracking" not in stage["cmd"] and "workers" not in stage["cmd"]


def outputs(stage: dict[str, Any], *kinds: str) -> dict[str, dict[str, Any]]:
    """Files that a stage writes, with their options."""
    found = [one for kind in kinds or ("outs", "metrics", "plots") for one in stage.get(kind, [])]
    return {name: options for one in found for name, options in ({one: {}} if isinstance(one, str) else one).items()}


@pytest.mark.parametrize(("file", "name", "stage"), STAGES, ids=IDS)
def test_no_output_keeps_a_stage_out_of_the_run_cache(file: str, name: str, stage: dict[str, Any]) -> None:
    """DVC caches no run of a stage with an uncached output that is neither metrics nor plots."""
    assert all(options.get("cache", True) for options in outputs(stage, "outs").values())
    assert not any(options.get("persist") for options in outputs(stage).values())


def ignored(path: str) -> bool:
    return not subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git repository")
@pytest.mark.parametrize(("file", "name", "stage"), STAGES, ids=IDS)
def test_git_ignores_what_dvc_caches_and_keeps_the_small_results(file: str, name: str, stage: dict[str, Any]) -> None:
    """Else DVC writes a .gitignore into a folder that other stages depend on, and `git add results` breaks a stage."""
    folder = Path(file).parent
    for path, options in outputs(stage).items():
        concrete = str(folder / re.sub(r"\$\{.*?\}", "x", path))
        assert ignored(concrete) == options.get("cache", True), concrete


def test_the_workflow_shows_few_metrics_and_charts_with_titles_in_words() -> None:
    found = list(stages("dvc.yaml").values())
    metrics = [path for stage in found for path in outputs(stage, "metrics")]
    plots = {path: options for stage in found for path, options in outputs(stage, "plots").items()}
    assert metrics == ["results/metrics.json"]
    assert len(plots) <= 12
    assert all(" " in options["title"] for options in plots.values())
    assert {options["template"] for options in plots.values()} <= {
        path.stem for path in (ROOT / ".dvc/plots").iterdir()
    }


def test_sweeps_have_the_settings_and_templates_of_the_workflow() -> None:
    shared = ["plots/settings.json", ".gitignore"]
    assert all((ROOT / ".dvc" / one).read_bytes() == (ROOT / "sweeps/.dvc" / one).read_bytes() for one in shared)


def test_every_sweep_of_the_project_is_a_stage_and_every_table_of_it_an_output() -> None:
    own = stages("sweeps/dvc.yaml")
    sweeps = load_sweeps(ROOT / "sweeps/params.yaml")
    assert {*own["sweep"]["matrix"]["name"], "models", "methods"} == set(sweeps)
    common = {"trials.csv", "epochs.csv", "curves.csv", "timing.csv", "metrics.json", "sweep.json", "runs"}
    tables = {name: {path.rpartition("/")[2] for path in outputs(stage)} for name, stage in own.items()}
    assert tables["sweep"] == common
    assert tables["models"] == common | {"models.csv", "evaluate"}
    assert tables["methods"] == common | {"evaluate", "compare"}
    assert tables["cost"] == {"cost.csv"}


def named(stage: dict[str, Any], file: str) -> list[str]:
    return next(keys for one in stage["params"] if isinstance(one, dict) for name, keys in one.items() if name == file)


def test_a_sweep_depends_on_the_methods_that_it_trains() -> None:
    own, sweeps = stages("sweeps/dvc.yaml"), load_sweeps(ROOT / "sweeps/params.yaml")
    for name in own["sweep"]["matrix"]["name"]:
        assert named(own["sweep"], "../methods.yaml") == [sweeps[name].method]
    assert tuple(named(own["methods"], "../methods.yaml")) == tuple(sweeps["methods"].methods)
    for name in ("models", "cost"):
        assert set(named(own[name], "../methods.yaml")) == {entry.method for entry in sweeps["models"].models.values()}


@pytest.mark.parametrize(
    ("name", "target"),
    [("beta", "sweep@beta"), ("models", "models"), ("methods", "methods"), ("cost", "cost"),
     ("report", "--single-item report")],
)  # fmt: skip
def test_make_sweep_runs_the_one_stage_that_it_names(name: str, target: str) -> None:
    words = ["make", "--no-print-directory", "--dry-run", "READY=", "sweep", f"NAME={name}"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == f"dvc --cd sweeps repro {target}"


def present(raw: dict[str, Any], name: str) -> bool:
    for part in name.split("."):
        if not isinstance(raw, dict) or part not in raw:
            return False
        raw = raw[part]
    return True


@pytest.mark.parametrize("profile", ["sample", "fer2013-cpu", "paper"])
@pytest.mark.parametrize(("file", "name", "stage"), STAGES, ids=IDS)
def test_every_key_that_a_stage_names_stands_in_its_file(
    file: str, name: str, stage: dict[str, Any], profile: str
) -> None:
    run = load(ROOT / "params.yaml").run
    for one in stage.get("params", []):
        for path, keys in one.items() if isinstance(one, dict) else [("params.yaml", [one])]:
            where = ROOT / Path(file).parent if isinstance(one, dict) else ROOT
            for key in keys:
                for method in run.methods:
                    concrete = key.replace("${item.method}", method).replace("${item.name}", "beta")
                    assert present(read(where / path.replace("${profile}", profile)), concrete), f"{path}:{concrete}"


def test_dvc_draws_a_line_for_every_setting_of_a_sweep(tmp_path: Path) -> None:
    def dvc(*arguments: str) -> None:
        tool = Path(sys.executable).with_name("dvc")
        subprocess.run([tool, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=120)

    dvc("init", "--no-scm", "-q")
    shutil.copytree(ROOT / ".dvc/plots", tmp_path / ".dvc/plots")
    ((path, options),) = outputs(stages("sweeps/dvc.yaml")["models"], "plots").items()
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


def staged(path: str) -> bytes | None:
    """A file as it will be committed, whatever an experiment has made of it since; None where git does not track it."""
    found = subprocess.run(["git", "show", f":{path}"], cwd=ROOT, capture_output=True, check=False)
    return None if found.returncode else found.stdout


BASELINE = staged("dvc.lock")
baseline = pytest.mark.skipif(BASELINE is None, reason="no dvc.lock is in git; `make baseline` makes one")


def locked() -> dict[str, dict[str, Any]]:
    assert BASELINE is not None
    stages: dict[str, dict[str, Any]] = YAML(typ="safe").load(BASELINE)["stages"]
    return stages


@baseline
def test_the_committed_results_are_those_of_the_committed_lock() -> None:
    kept = {
        one["path"]: one["md5"]
        for stage in locked().values()
        for one in stage["outs"]
        if re.match(r"results/(metrics\.json|plots/)", one["path"])
    }
    assert len(kept) == 6
    found = {path: content and hashlib.md5(content).hexdigest() for path in kept for content in [staged(path)]}
    assert found == kept, "`make baseline` makes lock and results together"


@baseline
def test_the_committed_lock_is_of_the_committed_parameters() -> None:
    for name, stage in locked().items():
        for path, values in stage.get("params", {}).items():
            content = YAML(typ="safe").load(staged(path))
            now = {key: functools.reduce(operator.getitem, key.split("."), content) for key in values}
            assert now == values, f"{name}: {path} has changed; `make baseline` makes dvc.lock and results anew"


def test_a_copy_without_git_works_once_make_has_told_dvc(tmp_path: Path) -> None:
    for name in (".dvc", "sweeps", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in ("Makefile", "dvc.yaml", "params.yaml", "methods.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    how: dict[str, Any] = {"cwd": tmp_path, "env": os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}}
    told = subprocess.run(["make", "scm", "READY="], capture_output=True, text=True, check=True, **how)
    assert "no .git here: " in told.stdout
    for folder in (".", "sweeps"):
        done = subprocess.run(["dvc", "--cd", folder, "stage", "list"], capture_output=True, text=True, **how)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git repository")
def test_git_ignores_data_and_takes_the_files_by_which_dvc_knows_them() -> None:
    assert ignored("data/raw/fer2013.csv")
    assert not ignored("data/raw/fer2013.csv.dvc")
