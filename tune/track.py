"""Weights & Biases runs of a sweep: written from its results, so that no kill, early stop or other node loses one.

Offline unless logged in; `wandb sync --include-offline wandb/offline-run-*` uploads, `wandb leet wandb` shows them in
the terminal. WANDB_MODE=disabled switches them off.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cfpn.data import EXPRESSIONS
from pipeline import sinks
from tune import spaces
from tune.results import Outcome
from tune.spaces import Sweep, Training
from tune.trial import Arrays

EXAMPLES = 8  # faces of each kind


def replay(
    folder: Path, project: str, sweep: Sweep, about: dict[str, Any], outcomes: list[Outcome], validation: Arrays
) -> None:
    """One run per trial below `folder`/wandb, all in one group. Trouble is said on standard error, never raised."""
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))  # tables are staged there, by default in the home
    for one in outcomes:
        with sinks.forgiving(f"no whole W&B run of {spaces.label(one.config)}"):
            _run(folder, project, group(about), sweep, about, one, validation)


def group(about: dict[str, Any]) -> str:
    """Name of the group that the runs of a sweep stand in, from its specification."""
    return f"{about['sweep']}-{identity(about)[:8]}"


def identity(value: object) -> str:
    """Hash of a JSON value: the same trial of the same sweep is the same run, however often it is resumed."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _run(
    folder: Path,
    project: str,
    group: str,
    sweep: Sweep,
    about: dict[str, Any],
    one: Outcome,
    validation: Arrays,
) -> None:
    import wandb as client

    name, run_id = spaces.identifier(one.config), identity([about, one.config])
    what = spaces.training(sweep, one.config, about["threads"], about["device"])
    with sinks.wandb(project, group, name, run_id, config(sweep, about, one, what), history(one), folder):
        run = client.run
        if run is None:
            return  # sinks.wandb has said why
        if one.score is not None:
            last = int(one.summary.history[-1]["epoch"])
            run.log({"epoch": last} | pictures(one.score.probabilities, validation), step=last)
            run.summary.update({f"test/{key}": value for key, value in flat(one.score.test or {}).items()})
            run.summary["parameters"] = one.score.parameters
        run.summary.update({"status": one.status, "reason": one.reason, "best_epoch": one.summary.best_epoch})


def config(sweep: Sweep, about: dict[str, Any], one: Outcome, what: Training) -> dict[str, Any]:
    """What a dashboard groups and filters by: the sweep, its group, the setting, every parameter of the training.

    "sweep" and "group" alone are W&B's own names, which its filters take for something else.
    """
    method = {"method": asdict(what.params.methods[what.method]), "method_name": what.method, "seed": what.seed}
    chosen = what.params.model_dump(mode="json", exclude={"methods"})
    axes = {spaces.short(name): value for name, value in one.config.items()}
    names = {"sweep_name": sweep.name, "sweep_group": group(about), "setting": spaces.setting(one.config)}
    return names | {"axes": axes} | method | chosen


def history(one: Outcome) -> list[dict[str, float]]:
    """The rows of all complete epochs, each with what the epoch took of the machine it ran on."""
    used = ("seconds", "memory_mib", "gpu_memory_mib", "cpu_seconds", "cpu_percent", "gpu_percent")
    places = [{f"system/{name}": place[name] for name in used if name in place} for place in one.summary.places]
    return [row | place for row, place in zip(one.summary.history, places, strict=True)]


def pictures(probabilities: np.ndarray, faces: Arrays) -> dict[str, Any]:
    """Confusion matrix and example predictions of probabilities (n, 7) on the validation faces, as W&B shows them."""
    import wandb as client

    predicted, certain = probabilities.argmax(1), probabilities.max(1)
    order = np.argsort(-certain, kind="stable")
    wrong = order[predicted[order] != faces.labels[order]][:EXAMPLES]
    right = order[predicted[order] == faces.labels[order]][:EXAMPLES]
    rows = [
        [client.Image(faces.pixels[i]), EXPRESSIONS[faces.labels[i]], EXPRESSIONS[predicted[i]], float(certain[i])]
        for i in [*wrong, *right]
    ]
    matrix = client.plot.confusion_matrix(
        y_true=faces.labels.tolist(), preds=predicted.tolist(), class_names=list(EXPRESSIONS), title="Validation faces"
    )
    table = client.Table(columns=["face", "label", "predicted", "probability"], data=rows)
    return {"confusion": matrix, "examples": table}


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with "/" between its keys."""
    result: dict[str, Any] = {}
    for key, inner in value.items():
        result |= flat(inner, f"{prefix}{key}/") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return result
