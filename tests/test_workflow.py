"""The whole workflow at a tiny size, for real: what trains again and what does not, and what a clone gets."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "WANDB_MODE": "disabled",
    "DVC_NO_ANALYTICS": "1",
    "COLUMNS": "4000",
    **{f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
pytestmark = pytest.mark.slow


def call(folder: Path, *words: str) -> str:
    """Output and messages of a command, which has to succeed."""
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def ran(folder: Path, *words: str) -> set[str]:
    """Names of the stages that `dvc repro` runs; those that it takes from its cache are no part of them."""
    return set(re.findall(r"Running stage '(.+?)'", call(folder, "dvc", "repro", *words)))


def change(folder: Path, file: str, name: str, value: object) -> None:
    yaml = YAML()
    raw = yaml.load(folder / file)
    *groups, last = name.split(".")
    group = raw
    for part in groups:
        group = group[part]
    group[last] = value
    yaml.dump(raw, folder / file)


def commit(folder: Path) -> None:
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "state")


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the tracked files, the workflow run once at a tiny size, its outcome committed."""
    folder = tmp_path_factory.mktemp("workflow") / "project"
    names = call(ROOT, "git", "ls-files", "-z").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    for name, value in {"sample.rows": 400, "bench.rounds": 2, "bench.batch": 16}.items():
        change(folder, "params.yaml", name, value)
    for name, value in {"model.width": 16, "train.epochs": 1, "train.batch": 32}.items():
        change(folder, "profiles/sample.yaml", name, value)
    call(folder, "git", "init", "-q")
    commit(folder)
    assert {"train@nbp-0", "train@bp-0", "report"} <= ran(folder)
    commit(folder)
    yield folder


@pytest.fixture
def project(workflow: Path) -> Iterator[Path]:
    """The same for one test, which may change parameters."""
    yield workflow
    call(workflow, "git", "checkout", "-q", ".")
    call(workflow, "dvc", "checkout", "-q")


def test_nothing_runs_twice(project: Path) -> None:
    assert ran(project) == set()


def test_another_noise_of_augmented_faces_trains_nothing_where_the_originals_are_learnt_from(project: Path) -> None:
    change(project, "params.yaml", "augment.sigma", 12)
    assert ran(project) == {"augment", "inputs", "report"}


def test_the_name_of_the_project_and_the_number_of_workers_run_nothing(project: Path) -> None:
    change(project, "params.yaml", "tracking.project", "other")
    change(project, "params.yaml", "compute.workers", 2)
    assert ran(project) == set()


def test_a_method_trains_alone_and_the_way_back_trains_nothing(project: Path) -> None:
    change(project, "methods.yaml", "nbp.local_loss.hsic_weight", 0.2)
    assert {name for name in ran(project, "train") if "train" in name} == {"train@nbp-0"}
    call(project, "git", "checkout", "-q", "methods.yaml")
    assert ran(project) == set()


def test_pictures_in_classes_without_splits_need_two_parameters_and_no_code(project: Path, tmp_path: Path) -> None:
    for number in range(60):
        path = tmp_path / "faces" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (48, 48), dtype=np.uint8)).save(path)
    for name, value in {"source": str(tmp_path / "faces"), "ingest.validation_share": 0.3}.items():
        change(project, "params.yaml", name, value)
    change(project, "params.yaml", "ingest.test_share", 0.3)
    assert ran(project, "ingest") == {"ingest"}
    rows = json.loads((project / "data/splits/audit.json").read_text())["written"]
    assert sum(rows.values()) == 60
    assert min(rows.values()) > 0


def test_after_make_clean_everything_comes_from_the_cache(project: Path) -> None:
    call(project, "make", "clean")
    assert not (project / "runs").exists()
    assert ran(project) == set()


def test_runs_of_another_seed_are_put_aside_and_the_lock_is_that_of_the_runs_asked_for(project: Path) -> None:
    shutil.copytree(project / "runs/nbp-0", project / "runs/nbp-7")
    assert ran(project, "compare") == {"compare"}
    assert not (project / "runs/nbp-7").exists()
    assert (project / ".former/runs/nbp-7/run.json").exists()
    assert ran(project) == set()


def test_a_clone_that_pulls_is_up_to_date_and_no_command_warns(project: Path, tmp_path: Path) -> None:
    call(project, "dvc", "remote", "add", "-q", "--local", "-d", "store", str(tmp_path / "store"))
    call(project, "dvc", "push", "-q")
    call(tmp_path, "git", "clone", "-q", str(project), "clone")
    clone = tmp_path / "clone"
    call(clone, "dvc", "remote", "add", "-q", "--local", "-d", "store", str(tmp_path / "store"))
    before = [call(clone, "dvc", *words) for words in (("metrics", "show"), ("exp", "show"), ("plots", "show"))]
    assert "nbp.accuracy" in before[0]
    said = [*before, *(call(clone, "dvc", *words) for words in (["pull"], ["checkout"], ["dag"], ["metrics", "diff"]))]
    assert "up to date" in call(clone, "dvc", "status")
    assert not any(word in text for text in said for word in ("ERROR", "WARNING", "failed"))
    assert call(clone, "git", "status", "--short") == ""


def test_tables_are_short_enough_to_read(project: Path) -> None:
    head = next(line for line in call(project, "dvc", "exp", "show", "--no-pager").splitlines() if "Created" in line)
    assert len(head.split()) <= 60
    assert head.index("nbp.accuracy") < 120
    metrics = json.loads(call(project, "dvc", "metrics", "show", "--json"))[""]["data"]["results/metrics.json"]["data"]
    assert sum(len(one) if isinstance(one, dict) else 1 for one in metrics.values()) <= 10
    assert len(call(project, "make", "--silent", "runs", "READY=").splitlines()[1].split()) <= 12


def test_more_faces_change_at_most_twenty_rows_of_metrics(project: Path) -> None:
    change(project, "params.yaml", "sample.rows", 440)
    ran(project, "compare")
    assert 1 < len(call(project, "dvc", "metrics", "diff").splitlines()) <= 21
