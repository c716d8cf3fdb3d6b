"""Networks and trainings as safetensors: one state_dict, and the moments of every unit's optimiser."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cfpn import weights
from cfpn.faces import DEVIATION, MEAN
from cfpn.graph import Node
from cfpn.heads import Head
from cfpn.network import CFPN, Network, build
from cfpn.schema import EXPRESSIONS
from cfpn.training import State

FORMAT = "cfpn-network-1"
MOMENTS = {torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.SGD: {"momentum_buffer"}}
PREPROCESSING = {"mean": MEAN, "deviation": DEVIATION, "resize": "bilinear"}  # what `faces.images` does


def about(
    network: Network, model: dict[str, Any], classes: tuple[str, ...] = EXPRESSIONS, **more: object
) -> dict[str, str]:
    """Metadata from which `load` builds the network again; model: the fields of its dataclass.

    classes: their names; raises ValueError where they are not as many different ones as the network has classes.
    more: what else a reader may want to know, as JSON values: how the network was trained, what it scores.
    One key alone: safetensors keeps several in random order.
    """
    check_names(classes, network.classes)
    text = {
        "format": FORMAT,
        "model": model,
        "settings": network.settings,
        "classes": classes,
        "preprocessing": PREPROCESSING,
    } | more
    return {"network": json.dumps(text)}


def check_names(names: Sequence[str], classes: int) -> None:
    """Raise ValueError where the names are not those of so many different classes."""
    if len(names) != classes or len(set(names)) != classes:
        twice = "" if len(set(names)) == len(names) else ", of which one stands twice"
        raise ValueError(f"{len(names)} names for {classes} classes{twice}")


def _cfpn(model: dict[str, Any]) -> list[Node]:
    if (name := model.get("name", "cfpn")) != "cfpn":
        raise ValueError(f"model {name!r} is not the CFPN; load(path, nodes=...) takes a function that makes its nodes")
    return build(CFPN(**model), 0)


def load(path: Path | str = weights.BEST, nodes: Callable[[dict[str, Any]], list[Node]] = _cfpn) -> Network:
    """The network of a weights file, in evaluation mode, on the CPU.

    path: a file, or the name of weights that come with the library: "nbp", "bp", "deep_supervision".
    `network.names` are its classes, `network.about` what the file's metadata say.
    nodes: makes the nodes from the metadata's "model"; the default knows the CFPN. Raises FileNotFoundError, or
    ValueError for a file that holds no such network: it names the file, and the tensor where there is one.
    """
    path = weights.named(path) if isinstance(path, str) and weights.is_name(path) else Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; expected the weights of a trained network")
    try:
        tensors, metadata = read(path)
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise ValueError(f"tensor {name!r} holds values that are not finite")
        network = described(metadata, nodes)
        set_weights(network, tensors)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: {reason}; expected the weights of a trained network") from error
    return network.eval()


def described(metadata: dict[str, str], nodes: Callable[[dict[str, Any]], list[Node]] = _cfpn) -> Network:
    """The untrained network that a weights file's metadata describe; raises ValueError where they describe none."""
    try:
        about = json.loads(metadata["network"])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r}, but this version knows {FORMAT!r}")
        settings = about["settings"]
        network = Network(nodes(about["model"]), **(settings | {"head": Head(**settings["head"])}))
        network.names = tuple(about["classes"])
        network.about = about
        if about.get("preprocessing", PREPROCESSING) != PREPROCESSING:
            raise ValueError(f"preprocessing {about['preprocessing']}, but this version does {PREPROCESSING}")
        check_names(network.names, network.classes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"metadata 'network': {type(error).__name__}: {error}") from error
    return network


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises SafetensorError or OSError where there is none."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def set_weights(network: Network, tensors: dict[str, Tensor]) -> None:
    """Take over what `Network.predicting` gave; leading "module." and "_orig_mod." are cut, anything else must match.

    Raises KeyError or ValueError, which name the tensor, where names or shapes differ.
    """
    tensors = {re.sub(r"^((module|_orig_mod)\.)+", "", key): value for key, value in tensors.items()}
    _compare(network.predicting(), tensors)
    network.load_state_dict(tensors, strict=network.classifies)


def _compare(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Raise KeyError or ValueError, which name the first tensor, where names or shapes differ."""
    strange = sorted(set(expected) ^ set(found))
    if strange:
        raise KeyError(f"tensor {strange[0]!r} is {'not part of this network' if strange[0] in found else 'missing'}")
    for name, value in found.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)}; this network has {tuple(expected[name].shape)}"
            raise ValueError(f"tensor {name!r} has the shape {shapes}")


def tensors(state: State) -> dict[str, Tensor]:
    """All that a training needs to go on: "network/...", "optimizer/UNIT/...", where averaged "averaged/...".

    The optimiser's moments are numbered in the order of the unit's parameters.
    """
    result = {f"network/{name}": value for name, value in state.network.state_dict().items()}
    if state.averaged is not state.network:
        result |= {f"averaged/{name}": value for name, value in state.averaged.state_dict().items()}
    for learner in state.learners:
        for index, moments in learner.own_optimizer.state_dict()["state"].items():
            result |= {f"optimizer/{learner.unit.name}/{index}/{name}": value for name, value in moments.items()}
    return result


def restore(state: State, saved: dict[str, Tensor], epoch: int) -> None:
    """Take over what `tensors` gave after `epoch`.

    Raises KeyError, IndexError, ValueError or RuntimeError where names or shapes differ.
    """
    starts = [f"optimizer/{learner.unit.name}/" for learner in state.learners]
    for name in saved:
        if not name.startswith(("network/", "averaged/", "best/", *starts)):
            raise KeyError(f"{name!r} belongs to none of the units")
    networks = {"network/": state.network}
    if state.averaged is not state.network:
        networks["averaged/"] = state.averaged
    for part, network in networks.items():
        own = _below(saved, part)
        _compare(network.state_dict(), own)
        network.load_state_dict(own)
    for learner, start in zip(state.learners, starts, strict=True):
        _restore_moments(learner.own_optimizer, _below(saved, start))
    state.epoch = epoch


def _restore_moments(optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    state = optimizer.state_dict() | {"state": {}}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in saved.items():
        index, name = key.split("/")
        if name not in MOMENTS[type(optimizer)]:
            raise KeyError(f"{key!r} is no moment of {type(optimizer).__name__}")
        expected = torch.Size() if name == "step" else parameters[int(index)].shape
        if value.shape != expected:
            raise ValueError(f"moment {key!r} has the shape {tuple(value.shape)}; expected {tuple(expected)}")
        # The fused step walks memory: moments must lie as their parameter does, channels last included.
        value = torch.empty_like(parameters[int(index)]).copy_(value) if name != "step" else value.clone()
        state["state"].setdefault(int(index), {})[name] = value
    for index, found in state["state"].items():
        if missing := MOMENTS[type(optimizer)] - found.keys():
            raise KeyError(f"'{index}/{min(missing)}' is missing")
    optimizer.load_state_dict(state)


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
