"""What the blocks of a network have learned: dependence on image and label, linear probes, gradients beside BP's.

Every quantity is given for the blocks of the network (the prefixes of its node names) whatever the units of training,
so that back-propagation and local training stand side by side. Names are "block/<block>/<quantity>".
All look at faces drawn from the whole of a split, which may be sorted by class.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cfpn import faces as data
from cfpn.faces import Faces
from cfpn.graph import IMAGE, Node, prefix, run, units, walk
from cfpn.heads import pooled
from cfpn.hsic import label_kernel
from cfpn.learner import Learner, unit_loss
from cfpn.objectives import Bottleneck, Targets
from cfpn.training import Method, State

FEWEST_FACES = 4  # for validation: the unbiased HSIC divides by n - 3
INFORMATION_FACES = 512
PROBE_FACES = 2048
RIDGE = 1e-2  # of the features' unit variance
POOL, INPUT_POOL, PROBE_POOL = 4, 12, 2


def diagnose(state: State, method: Method, faces: Faces, validation: Faces) -> dict[str, float]:
    """All quantities of this module; weights, statistics, gradients and torch's generator stay untouched."""
    nodes, size = nodes_of(state), state.network.input_size
    result = information(nodes, validation.sample(INFORMATION_FACES), size)
    result |= probes(nodes, faces, validation, size)
    return result | gradients(state, method, faces)


def nodes_of(state: State) -> list[Node]:
    """The nodes that validation sees."""
    return [node for unit in state.averaged.units for node in unit.nodes]


def information(nodes: list[Node], faces: Faces, input_size: int) -> dict[str, float]:
    """Debiased CKA of every block's output with the image (cka_image) and the label (cka_label), each in [-1, 1]."""
    measure, images = Bottleneck("debiased_cka"), data.images(faces.pixels, input_size)
    x = measure.prepare(measure.kernel(pooled([images], INPUT_POOL).flatten(1)))
    to = Targets(x, measure.prepare(label_kernel(faces.labels, len(faces.classes))), faces.labels)
    result: dict[str, float] = {}
    for name, z in representations(nodes, faces.pixels, input_size, POOL).items():
        zx, zy = measure.values(z, to)
        result |= {f"block/{name}/cka_image": zx.item(), f"block/{name}/cka_label": zy.item()}
    return result


def probes(nodes: list[Node], faces: Faces, validation: Faces, input_size: int) -> dict[str, float]:
    """Validation accuracy of a ridge classifier on every block's 2x2-pooled output, fitted on training faces."""
    fit, test = faces.sample(PROBE_FACES), validation.sample(PROBE_FACES)
    targets = F.one_hot(fit.labels, len(faces.classes)).double()
    known = representations(nodes, fit.pixels, input_size, PROBE_POOL)
    unknown = representations(nodes, test.pixels, input_size, PROBE_POOL)
    result: dict[str, float] = {}
    for name, z in known.items():
        mean, deviation = z.double().mean(0), z.double().std(0).clamp_min(1e-6)
        a, b = (F.pad((f.double() - mean) / deviation, (0, 1), value=1.0) for f in (z, unknown[name]))
        ridge = RIDGE * len(a) * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        scores = b @ torch.linalg.solve(a.T @ a + ridge, a.T @ targets)
        result[f"block/{name}/probe_accuracy"] = (scores.argmax(1) == test.labels).double().mean().item()
    return result


def representations(nodes: list[Node], pixels: Tensor, input_size: int, pool: int) -> dict[str, Tensor]:
    """Outputs of every block but the last for pixels (n, c, h, w), averaged to pool x pool: (n, d) by name.

    Modules are put into evaluation mode.
    """
    for node in nodes:
        node.module.eval()
    blocks = units(nodes, "block")[:-1]
    parts: dict[str, list[Tensor]] = {block.name: [] for block in blocks}
    with torch.no_grad():
        for part in torch.split(pixels, data.per_pass(input_size)):
            walking = walk(blocks, {IMAGE: data.images(part, input_size)})
            for block, inputs in walking:
                outputs = run(block.nodes, inputs, block.outputs)
                parts[block.name].append(small([*outputs.values()], pool))
                walking.send(outputs)
    return {name: torch.cat(chunks) for name, chunks in parts.items()}


def small(outputs: list[Tensor], pool: int) -> Tensor:
    """Outputs of a block as one matrix (n, d): maps (n, c, h, w) averaged to pool x pool, others as they are."""
    maps = [z for z in outputs if z.dim() == 4]
    others = [z.flatten(1) for z in outputs if z.dim() != 4]
    return torch.cat(([pooled(maps, pool).flatten(1)] if maps else []) + others, 1)


def gradients(state: State, method: Method, faces: Faces, size: int = 128) -> dict[str, float]:
    """Norm of the gradient that every block's weights get, and its cosine with that of back-propagation, on one batch.

    Where a method is back-propagation the cosine is 1.
    """
    network, batch = state.network, faces.sample(size)
    images, labels = data.images(batch.pixels, network.input_size), batch.labels
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    targets = method.local_loss.targets(images, labels, network.classes)
    passes = method.gradients == "pass"
    plain = [replace(learner, precision="float32", recompute=False) for learner in state.learners]
    own, true = (
        alike(partial(block_gradients, learners, {IMAGE: images}, targets, passes))
        for learners in (plain, whole(state))
    )
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])
    result: dict[str, float] = {}
    for name in own:
        norm = own[name].norm()
        cosine = own[name] @ true[name] / (norm * true[name].norm()).clamp_min(1e-20)
        result |= {f"block/{name}/gradient_norm": norm.item(), f"block/{name}/bp_cosine": cosine.item()}
    return result


def alike(task: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What a task returns that draws the same dropout every time; the generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return task()


def whole(state: State) -> list[Learner]:
    """All nodes as one unit, whose loss is the cross-entropy of the network: back-propagation."""
    one = units([node for unit in state.network.units for node in unit.nodes], "network")[0]
    last = state.learners[-1]
    return [Learner(one, class_weights=last.class_weights, label_smoothing=last.label_smoothing)]


def block_gradients(
    learners: list[Learner], features: dict[str, Tensor], targets: Targets, passes: bool
) -> dict[str, Tensor]:
    """The gradient of every block's weights as one vector; passes: whether gradients cross units."""
    losses, walking = [], walk([learner.unit for learner in learners], features)
    for (_, inputs), learner in zip(walking, learners, strict=True):
        outputs, loss = unit_loss(learner, inputs, targets)
        losses.append(loss)
        walking.send(outputs if passes else {name: f.detach() for name, f in outputs.items()})
    nodes = [node for learner in learners for node in learner.unit.nodes]
    weights = [(prefix(node.name), p) for node in nodes for p in node.module.parameters()]
    first, *others = losses
    found = torch.autograd.grad(sum(others, start=first), [p for _, p in weights], allow_unused=True)
    vectors: dict[str, list[Tensor]] = {}
    for (name, p), gradient in zip(weights, found, strict=True):
        vectors.setdefault(name, []).append((torch.zeros_like(p) if gradient is None else gradient).flatten())
    return {name: torch.cat(parts) for name, parts in vectors.items()}
