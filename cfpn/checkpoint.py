"""Networks and trainings as safetensors: one state_dict, and the moments of every unit's Adam."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cfpn.faces import DEVIATION, MEAN
from cfpn.graph import Node
from cfpn.heads import Head
from cfpn.network import CFPN, Network, build
from cfpn.schema import EXPRESSIONS
from cfpn.training import State

FORMAT = "cfpn-network-1"


def about(network: Network, model: dict[str, Any], classes: tuple[str, ...] = EXPRESSIONS) -> dict[str, str]:
    """Metadata from which `load` builds the network again; model: the fields of its dataclass.

    One key alone: safetensors keeps several in random order.
    """
    text = {
        "format": FORMAT,
        "model": model,
        "settings": network.settings,
        "classes": classes,
        "preprocessing": {"mean": MEAN, "deviation": DEVIATION, "resize": "bilinear"},
    }
    return {"network": json.dumps(text)}


def _cfpn(model: dict[str, Any]) -> list[Node]:
    return build(CFPN(**model), 0)


def load(path: Path | str, nodes: Callable[[dict[str, Any]], list[Node]] = _cfpn) -> Network:
    """The network of a weights file, in evaluation mode, on the CPU.

    nodes: makes the nodes from the metadata's "model"; the default knows the CFPN. The names of the classes are in
    `network.names`. Raises ValueError, which names the file, where it is no such file or does not fit.
    """
    try:
        tensors, metadata = read(Path(path))
        found = json.loads(metadata.get("network", "null"))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"its metadata says no format {FORMAT!r}")
        settings = found["settings"]
        network = Network(nodes(found["model"]), **(settings | {"head": Head(**settings["head"])}))
        set_weights(network, tensors)
        network.names = tuple(found["classes"])
        if len(network.names) != network.classes:
            raise ValueError(f"{len(network.names)} names for {network.classes} classes")
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path}: no weights of a network that this version knows: {error}") from error
    return network.eval()


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises SafetensorError or OSError where there is none."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def set_weights(network: Network, tensors: dict[str, Tensor]) -> None:
    """Take over what `Network.predicting` gave; leading "module." and "_orig_mod." are cut, anything else must match.

    Raises KeyError, which names the tensor, or RuntimeError where names or shapes differ.
    """
    tensors = {re.sub(r"^((module|_orig_mod)\.)+", "", key): value for key, value in tensors.items()}
    strange = sorted(set(network.predicting()) ^ set(tensors))
    if strange:
        state = "not part of this network" if strange[0] in tensors else "missing"
        raise KeyError(f"weights: {strange[0]!r} is {state}")
    network.load_state_dict(tensors, strict=network.classifies)


def tensors(state: State) -> dict[str, Tensor]:
    """All that a training needs to go on: "network/...", "averaged/..." where there is an average, "adam/<unit>/...".

    Adam's moments are numbered in the order of the unit's parameters.
    """
    result = {f"network/{name}": value for name, value in state.network.state_dict().items()}
    if state.averaged is not state.network:
        result |= {f"averaged/{name}": value for name, value in state.averaged.state_dict().items()}
    for learner in state.learners:
        for index, moments in learner.optimizer.state_dict()["state"].items():
            result |= {f"adam/{learner.unit.name}/{index}/{name}": value for name, value in moments.items()}
    return result


def restore(state: State, saved: dict[str, Tensor], epoch: int) -> None:
    """Take over what `tensors` gave after `epoch`; raises KeyError or RuntimeError where names or shapes differ."""
    starts = [f"adam/{learner.unit.name}/" for learner in state.learners]
    for name in saved:
        if name.startswith("adam/") and not name.startswith(tuple(starts)):
            raise KeyError(f"{name!r} belongs to none of the units")
    state.network.load_state_dict(_below(saved, "network/"))
    if state.averaged is not state.network:
        state.averaged.load_state_dict(_below(saved, "averaged/"))
    for learner, start in zip(state.learners, starts, strict=True):
        _restore_adam(learner.optimizer, _below(saved, start))
    state.epoch = epoch


def _restore_adam(optimizer: torch.optim.Adam, saved: dict[str, Tensor]) -> None:
    state = optimizer.state_dict() | {"state": {}}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in saved.items():
        index, name = key.split("/")
        # The fused step walks memory: moments must lie as their parameter does, channels last included.
        value = torch.empty_like(parameters[int(index)]).copy_(value) if name != "step" else value.clone()
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
