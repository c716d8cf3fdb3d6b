"""What the command asks of Ray and of its folders before anything trains; nothing here starts Ray."""

import argparse
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray import tune

from pipeline.process import InputError
from tune import cluster, results, search, spaces, sweep
from tune.trial import Place

SWEEP = spaces.read(Path(__file__).parents[2] / "params.yaml", "activation", [], {}, None, 1)


def options(cpus: float = 1, gpus: float | None = 0, address: str | None = None) -> argparse.Namespace:
    """The part of the command line that matters here."""
    return argparse.Namespace(cpus_per_trial=cpus, gpus_per_trial=gpus, address=address, cpus=None)


@pytest.mark.parametrize(
    ("cpus", "gpus", "message"),
    [
        (8, 0, None),
        (2, 0.5, None),
        (16, 0, "--cpus-per-trial: 16 wanted, and the largest node of this Ray has 8"),
        (1, 2, "--gpus-per-trial: 2 wanted, and the largest node of this Ray has 1"),
        (8, 1, "no node of this Ray has 8 CPU and 1 GPU at once"),
    ],
)
def test_one_node_must_have_all_that_a_trial_wants(
    cpus: float, gpus: float, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"CPU": 8}, {"CPU": 2, "GPU": 1}]
    dead = {"Alive": False, "Resources": {"CPU": 64, "GPU": 8}}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes] + [dead])
    if message is None:
        cluster.fits(options(cpus, gpus))
    else:
        with pytest.raises(InputError, match=message):
            cluster.fits(options(cpus, gpus))


@pytest.mark.parametrize(("workers", "at_once"), [(1, 3), (2, 1), (3, 1), (4, None)])
def test_the_workers_of_a_trial_may_stand_on_several_nodes(
    workers: int, at_once: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": count}} for count in (1, 2)])
    if at_once is not None:
        assert cluster.fits(options(), workers) == at_once
    else:
        with pytest.raises(InputError, match=r"compute\.workers: 4 wanted, and this Ray has place for 3 at once"):
            cluster.fits(options(), workers)


@pytest.mark.parametrize(
    ("method", "bundles"), [("nbp", [{"CPU": 2, "GPU": 0.5}] * 3), ("bp", [{"CPU": 2, "GPU": 0.5}])]
)
def test_a_trial_reserves_as_much_for_each_worker_that_it_has(method: str, bundles: list[dict[str, float]]) -> None:
    common = SWEEP.files.common | {"compute": {"workers": 3}}
    own = replace(SWEEP, files=SWEEP.files._replace(common=common), method=method)
    found = search.resources(own, Place(2, "cpu"), 2, 0.5, spaces.configs(own)[0])
    assert found.bundles[-len(bundles) :] == bundles
    assert found.required_resources == {"CPU": 2 * len(bundles), "GPU": 0.5 * len(bundles)}


@pytest.mark.parametrize(("cpus", "gpus"), [(1.5, 0), (1, 2.25), (0, 0), (1, -1), (math.nan, 0), (1, math.nan)])
def test_resources_that_ray_cannot_split_are_refused(cpus: float, gpus: float) -> None:
    with pytest.raises(InputError, match="-per-trial"):
        sweep.where(options(cpus, gpus), SWEEP)


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 1), ("cpu", 0), ("auto", 0)])
def test_a_trial_has_a_gpu_where_the_parameters_ask_for_one(device: str, gpus: float) -> None:
    common = SWEEP.files.common | {"compute": {"device": device}}
    own = replace(SWEEP, files=SWEEP.files._replace(common=common))
    args = options(1, None)
    assert sweep.where(args, own).device == ("cuda" if gpus else "cpu")
    assert args.gpus_per_trial == gpus


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (2.0, 2)])
def test_a_trial_has_the_threads_of_its_cpus(cpus: float, threads: int) -> None:
    assert sweep.where(options(cpus), SWEEP).threads == threads


@pytest.mark.parametrize("own", [None, "5"])
def test_trials_run_at_the_niceness_of_the_command_unless_the_user_set_another(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_worker_niceness": own} if own else {})
    seen = []
    monkeypatch.setattr(ray, "init", lambda **_: seen.append(dict(os.environ)))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with cluster.cluster(options()):
        pass
    assert [one["RAY_worker_niceness"] for one in seen] == [own or "0"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError(), "ValueError"), (MemoryError(" \n"), "MemoryError"), (OSError("a\nb"), "OSError: a")],
)
def test_a_trials_failure_is_told_in_one_line_whatever_its_message(error: Exception, reason: str) -> None:
    failed: tune.Result = SimpleNamespace(checkpoint=None, metrics=None, error=SimpleNamespace(cause=error))
    one = search.told({"seed": 0}, failed, None, "grid", 3)
    assert (one.status, one.reason) == ("failed", reason)


def test_a_folder_for_tables_is_probed_without_a_trace(tmp_path: Path) -> None:
    results.probe(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"--out: cannot write to .*none"):
        results.probe(tmp_path / "none")
