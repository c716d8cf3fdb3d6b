"""Faults of the input end a sweep in one line and before Ray starts."""

import hashlib
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from cfpn.schema import EXPRESSIONS, Description, write
from pipeline.process import InputError
from pipeline.runs import about
from pipeline.runs.cluster import reach
from tune import inputs, spaces
from tune import sweep as command
from tune.trial import Arrays

ROOT = Path(__file__).parents[2]
FACES = Arrays(np.zeros((96, 1, 48, 48), np.uint8), np.zeros(96, np.int64), np.arange(96), EXPRESSIONS, False)
HELP = """
import runpy, sys

sys.argv = ["tune/sweep.py", "--help"]
try:
    runpy.run_path("tune/sweep.py", run_name="__main__")
finally:
    assert not {"torch", "ray", "pandas", "wandb"} & set(sys.modules), "imported"
"""


def test_help_imports_neither_torch_nor_ray() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--seeds" in done.stdout


@pytest.mark.parametrize(
    ("flag", "value", "least"),
    [("--samples", "-1", 1), ("--samples", "0", 1), ("--retries", "-1", 0), ("--cpus", "0", 1)],
)
def test_a_count_that_cannot_be_is_refused_with_exit_code_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str, value: str, least: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune/sweep.py", "beta", flag, value])
    with pytest.raises(SystemExit) as end:
        command.arguments()
    assert end.value.code == 2
    assert f"{flag}: expected {least} or more, found {value}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cpus", "4", "--address", "auto"], "--cpus is of the Ray that is started here"),
        (["--samples", "9"], "--samples: expected --search optuna beside it"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune/sweep.py", "beta", *options])
    with pytest.raises(SystemExit) as end:
        command.arguments()
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("host", ["foo..bar", "a" * 70])
def test_an_address_that_cannot_be_is_told(host: str) -> None:
    with pytest.raises(InputError, match="nothing answers there"):
        reach(f"{host}:6379", "--address")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["train.batch=100000"], "train.batch: expected at most the 96 faces there are, found 100000"),
        (["train.batch=32", "model.classes=3"], "model.classes: the faces have 7, found 3; leave it out"),
        (["train.batch=32,128"], "train.batch: expected at most the 96 faces there are, found 128"),
        (
            ["train.limit=64", "train.batch=64", "methods.nbp.units=[blok1],[block1]"],
            "methods.nbp.units: 'blok1' is no",
        ),
        (
            ["train.batch=32", "model={name: alexnet, input_size: 64}", "methods.nbp.units=balanced:2,network"],
            "methods.nbp.units: 'balanced:2' asks for more units than the 1 nodes of the network",
        ),
    ],
)
def test_what_the_faces_or_the_network_forbid_is_known_before_ray_starts(sets: list[str], message: str) -> None:
    sweep = spaces.read(ROOT / "params.yaml", "x", sets, {}, None, None)
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        inputs.check(sweep, {"original": FACES, "val": FACES})
    assert not ray.is_initialized()


def test_a_profile_for_photographs_refuses_drawn_faces_before_ray_starts() -> None:
    drawn = {"original": FACES._replace(drawn=True), "val": FACES}
    own = ["profile=fer2013-cpu", "train.batch=32"]
    with pytest.raises(InputError, match=r"profile fer2013-cpu is for photographs.*--set photographs=false"):
        inputs.check(spaces.read(ROOT / "params.yaml", "x", own, {}, None, None), drawn)
    inputs.check(spaces.read(ROOT / "params.yaml", "x", [*own, "photographs=false"], {}, None, None), drawn)


def test_too_few_validation_faces_are_known_before_ray_starts() -> None:
    few = FACES._replace(labels=FACES.labels[:3], pixels=FACES.pixels[:3], rows=FACES.rows[:3])
    sweep = spaces.read(ROOT / "params.yaml", "x", ["train.batch=32"], {}, None, None)
    with pytest.raises(InputError, match="validation split: expected 4 faces or more, found 3"):
        inputs.check(sweep, {"original": FACES, "val": few})


def test_units_cut_by_cost_make_a_sweep() -> None:
    sweep = spaces.read(
        ROOT / "params.yaml", "x", ["train.batch=32", "methods.nbp.units=balanced:2,block"], {}, None, 1
    )
    inputs.check(sweep, {"original": FACES, "val": FACES})


def test_the_units_of_every_network_of_the_project_are_there() -> None:
    sweep = spaces.read(ROOT / "params.yaml", "models", ["train.batch=32"], {}, None, 1)
    inputs.check(replace(sweep, axes={}), {"original": FACES, "val": FACES})


@pytest.mark.parametrize(
    "name",
    ["cfpn/hsic.py", "pipeline/evaluate.py", "pipeline/metrics.py", "pipeline/runs/chance.py", "tune/trial.py"],
)
def test_a_sweep_after_a_change_of_what_trains_or_scores_is_another_sweep(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before, digest = inputs.code(), about.digest
    other = ROOT / "pyproject.toml"  # stands for the changed file
    monkeypatch.setattr(about, "digest", lambda files: digest(other if one == ROOT / name else one for one in files))
    assert inputs.code() != before


def test_a_missing_split_is_named_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.parquet: no such file; `dvc repro"):
        inputs.digests({"val": tmp_path / "no.parquet"})


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no.such.host.invalid:6379", "127.0.0.1:99999"])
def test_an_address_with_nothing_there_is_said_at_once(address: str) -> None:
    begin = time.monotonic()
    with pytest.raises(InputError, match=f"--address {address}: nothing answers there"):
        reach(address, "--address")
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", "ray://127.0.0.1:10001"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="--address"):
        reach(address, "--address")


@pytest.mark.slow
def test_a_tmpdir_that_is_too_long_for_sockets_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 140)
    long.mkdir()
    monkeypatch.setattr(os, "environ", os.environ | {"TMPDIR": str(long), "RAY_TMPDIR": str(long)})
    command = "from pipeline.runs import cluster; cluster.start(1, {})"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, env=os.environ, capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    assert done.stderr.splitlines()[-1].endswith(f"cannot lie below {long}: set TMPDIR to a shorter path")


def test_a_validation_split_of_another_kind_is_refused_before_the_first_trial(tmp_path: Path) -> None:
    for name, side in (("train", 48), ("val", 24)):
        arrays = np.zeros((96, 1, side, side), np.uint8), np.arange(96) % 7, np.arange(96)
        write(tmp_path / f"{name}.parquet", *arrays, Description(side=side))
    sweep = spaces.read(ROOT / "params.yaml", "activation", [], {}, None, 1)
    files = {"original": tmp_path / "train.parquet", "val": tmp_path / "val.parquet"}
    with pytest.raises(InputError, match="validation split: expected the side of the training faces, 48, found 24"):
        inputs.load(sweep, files, tmp_path)


@pytest.mark.parametrize(
    ("side", "classes", "message"),
    [(24, EXPRESSIONS, "side of the validation faces, 48, found 24"),
     (48, ("a", *EXPRESSIONS[1:]), r"classes of the validation faces, .*, found \('a', ")],
)  # fmt: skip
def test_a_test_split_of_another_kind_is_refused_before_the_first_trial(
    tmp_path: Path, side: int, classes: tuple[str, ...], message: str
) -> None:
    for name, own, names in (("train", 48, EXPRESSIONS), ("val", 48, EXPRESSIONS), ("test", side, classes)):
        arrays = np.zeros((96, 1, own, own), np.uint8), np.arange(96) % 7, np.arange(96)
        write(tmp_path / f"{name}.parquet", *arrays, Description(side=own, classes=names))
    sweep = replace(spaces.read(ROOT / "params.yaml", "activation", [], {}, None, 1), test=True)
    files = inputs.needed(sweep, tmp_path, tmp_path / "augmented.parquet")
    with pytest.raises(InputError, match=rf"test\.parquet: expected the {message}"):
        inputs.load(sweep, files, tmp_path)


@pytest.mark.parametrize(("transport", "device", "wanted"), [("nccl", "cpu", "cuda"), ("gloo", "cuda", "cpu")])
def test_a_transport_that_does_not_fit_the_trials_device_is_known_before_ray_starts(
    transport: str, device: str, wanted: str
) -> None:
    sweep = spaces.read(ROOT / "params.yaml", "x", ["train.batch=32"], {}, None, 1)
    files = sweep.files._replace(common=sweep.files.common | {"compute": {"workers": 2, "transport": transport}})
    for method, refused in (("nbp", True), ("bp", False)):  # BP learns in one process
        own = replace(sweep, files=files, method=method)
        with pytest.raises(InputError, match=f"needs compute.device {wanted}") if refused else nullcontext():
            inputs.check(own, {"original": FACES, "val": FACES}, device)


def test_copies_and_fingerprint_are_those_of_the_training_faces(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = {name: random.integers(0, 256, (96, 1, 48, 48), np.uint8) for name in ("train", "val", "test")}
    pixels["test"][:5], pixels["test"][5:9] = pixels["train"][7:12], pixels["val"][:4]
    for name, own in pixels.items():
        write(tmp_path / f"{name}.parquet", own, np.arange(96) % 7, np.arange(96), Description())
    sweep = replace(spaces.read(ROOT / "params.yaml", "activation", [], {}, None, 1), test=True)
    data = inputs.load(sweep, inputs.needed(sweep, tmp_path, tmp_path / "augmented.parquet"), tmp_path)
    assert data.copied.tolist() == [True] * 5 + [False] * 91
    learnt = [tmp_path / "train.parquet", tmp_path / "val.parquet"]
    assert data.fingerprints == {"original": about.digest(learnt)}


def test_other_faces_make_another_sweep(tmp_path: Path) -> None:
    (tmp_path / "val").write_bytes(b"1")
    assert inputs.digests({"val": tmp_path / "val"}) == {"val": hashlib.sha256(b"1").hexdigest()}
