"""What a loan of a GPU is to do, as a JSON file in which all parameters are resolved.

A dataclass of cfpn stands in the JSON as its fields and its class name under the key "is".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from cfpn.faces import Augmentation
from cfpn.heads import ClassMeans, Head, LinearClassifier
from cfpn.hsic import Cosine, Gaussian, Linear
from cfpn.network import CFPN
from cfpn.objectives import Bottleneck, LocalLoss, SimilarityMatching
from cfpn.recipe import Optimizer, Recipe
from cfpn.schedule import Schedule
from cfpn.training import Method
from pipeline.process import InputError, write_json

MOST_RUNS = 7  # a file each, and the table: eight in all
CLASS = "is"


@dataclass(frozen=True)
class Training:
    """A network to train; recipe.epochs is the largest number that makes sense."""

    name: str
    model: CFPN
    method: Method
    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Cell:
    """A training step to measure.

    mode: eager, compiled (every layer by torch.compile) or graph (the whole step as one CUDA graph).
    form: of the separable convolution, see `cfpn.separable`; "" leaves the choice to its table.
    """

    name: str
    model: CFPN
    method: Method
    batch: int = 128
    precision: str = "float32"
    mode: str = "eager"
    form: str = ""


@dataclass(frozen=True)
class Plan:
    """share: of the time, in [0, 1], which measuring may take at most. photographs: drawn faces are refused."""

    name: str
    trainings: tuple[Training, ...]
    cells: tuple[Cell, ...]
    share: float = 0.3
    photographs: bool = False

    def __post_init__(self) -> None:
        names = [training.name for training in self.trainings]
        if len(set(names)) < len(names) or len(names) > MOST_RUNS:
            raise ValueError(f"trainings: expected at most {MOST_RUNS}, each with a name of its own, found {names}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected 0 to 1, found {self.share}")


KNOWN = {
    known.__name__: known
    for known in (
        Augmentation, Bottleneck, Cell, CFPN, ClassMeans, Cosine, Gaussian, Head, Linear, LinearClassifier, LocalLoss,
        Method, Optimizer, Plan, Recipe, Schedule, SimilarityMatching, Training,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Outline:
    """A plan by the profile and the methods it takes from the parameter files, and what it changes there."""

    profile: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    changes: dict[str, Any]
    sizes: tuple[int, ...] = ()  # of the images whose steps are measured
    measured: tuple[str, ...] = ()


MEASURED = ("bp", "deep_supervision", "nbp", "bp_recompute", "layers")
OUTLINES = {
    "strong": Outline(
        "fer2013-cpu",
        ("bp", "nbp", "deep_supervision"),
        (0, 1),
        {"model.input_size": 96, "model.width": 128, "train.precision": "bfloat16", "train.epochs": 60,
         "train.augmentation.rotation": 10, "train.augmentation.scale": 0.1},
        (48, 96, 224),
        MEASURED,
    ),
    "paper": Outline("paper", ("paper_eq4", "bp"), (0,), {}),
    "tiny": Outline(
        "sample",
        ("nbp", "bp", "deep_supervision"),
        (0,),
        {"model.width": 16, "model.input_size": 32, "train.epochs": 3, "train.batch": 16},
        (32,),
        ("bp", "nbp"),
    ),
}  # fmt: skip


def outlined(name: str, path: Path) -> Plan:
    """The plan of this name, from the parameter files beside `path`; raises InputError where they are at fault."""
    from pipeline import params as parameters  # needs pydantic, which the machine that runs a plan may lack

    outline = OUTLINES[name]
    params = parameters.load(path, {"profile": outline.profile} | outline.changes)
    if not isinstance(params.model, CFPN):
        raise InputError(f"model.name: expected cfpn, found {params.model.name}")
    if lost := [name for name in ("limit", "wrong_labels") if getattr(params.train, name)]:
        raise InputError(f"train.{lost[0]}: a plan is of all faces with their own labels; leave it out")
    model = params.model
    trainings = (
        Training(f"{method}-{seed}", model, params.methods[method], params.train.recipe, seed)
        for seed, method in product(outline.seeds, outline.methods)
    )
    models = {size: replace(model, input_size=size) for size in outline.sizes}
    methods = {method: params.methods[method] for method in outline.measured}
    measured = tuple(cells(models, methods, params.train.batch))
    return Plan(name, tuple(trainings), measured, photographs=params.photographs)


def write(plan: Plan, path: Path) -> None:
    """Write a plan as JSON."""
    write_json(path, encoded(plan))


def read(path: Path) -> Plan:
    """The plan of a JSON file; raises InputError where it is none."""
    try:
        plan = decoded(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: {error}; expected a plan that --write-plan wrote") from error
    if not isinstance(plan, Plan):
        raise InputError(f"{path}: found {type(plan).__name__}; expected a plan that --write-plan wrote")
    return plan


def encoded(value: object) -> object:
    """Dataclasses of KNOWN as JSON objects, tuples as lists."""
    if is_dataclass(value):
        own = {field.name: encoded(getattr(value, field.name)) for field in fields(value)}
        return {CLASS: type(value).__name__} | own
    return [encoded(item) for item in value] if isinstance(value, (list, tuple)) else value


def decoded(value: Any) -> Any:  # noqa: ANN401  (JSON in, dataclasses out)
    """What `encoded` wrote."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: decoded(item) for name, item in value.items() if name != CLASS}
    if value.get(CLASS) == "Plan":
        found |= {name: tuple(found[name]) for name in ("trainings", "cells")}
    return KNOWN[value[CLASS]](**found)


def cells(models: dict[int, CFPN], methods: dict[str, Method], batch: int) -> Iterator[Cell]:
    """Every method at every size and precision, eager and as a graph; then compiled layers and forms of the layer."""
    for (size, model), precision in product(models.items(), ("float32", "bfloat16")):
        for (name, method), mode in product(methods.items(), ("eager", "graph")):
            yield Cell(name, model, method, batch if size < 200 else batch // 4, precision, mode)
    if not models:
        return
    smallest, (name, method) = models[min(models)], next(iter(methods.items()))
    for form, precision in product(("autograd", "joined", "map_by_map", "composed"), ("float32", "bfloat16")):
        for model in models.values():
            yield Cell(name, model, method, batch if model.input_size < 200 else batch // 4, precision, "eager", form)
    for name, method in methods.items():
        yield Cell(name, smallest, method, batch, "bfloat16", "compiled")
