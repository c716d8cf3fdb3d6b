"""What the units of a network have learned: dependence on image and label, linear probes, gradients beside BP's.

Every quantity is given for the blocks of the network (the prefixes of its node names) whatever the units of training,
so that back-propagation and local training stand side by side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cfpn import data
from cfpn.data import Faces
from cfpn.graph import IMAGE, Node, prefix, run, units
from cfpn.hsic import label_kernel
from cfpn.objectives import CLASSES, DebiasedCKA, References, pooled
from cfpn.training import Learner, Method, State, unit_loss, whole

INFORMATION_FACES = 512
PROBE_FACES = 2048
RIDGE = 1e-2  # of the features' unit variance
POOL, INPUT_POOL, PROBE_POOL = 4, 12, 2


def diagnose(state: State, method: Method, faces: Faces, validation: Faces, input_size: int) -> dict[str, float]:
    """All quantities of this module as "unit/<block>/<quantity>"; weights, statistics and gradients stay untouched."""
    batch = Faces(*(tensor[:INFORMATION_FACES] for tensor in validation))
    result = information(state.network, batch, input_size)
    result |= probes(state.network, faces, validation, input_size)
    return result | gradients(state, method, faces, input_size)


def information(nodes: list[Node], faces: Faces, input_size: int) -> dict[str, float]:
    """Debiased CKA of every block's output with the image (hsic_x) and with the label (hsic_y), each in [-1, 1]."""
    measure, images = DebiasedCKA(), data.images(faces.pixels, input_size)
    x = measure.prepare(measure.kernel(pooled([images], INPUT_POOL).flatten(1)))
    to = References(x, measure.prepare(label_kernel(faces.labels, CLASSES)), faces.labels)
    result = {}
    for name, z in _representations(nodes, images, POOL).items():
        zx, zy = measure.values(z, to)
        result |= {f"unit/{name}/hsic_x": zx.item(), f"unit/{name}/hsic_y": zy.item()}
    return result


def probes(nodes: list[Node], faces: Faces, validation: Faces, input_size: int) -> dict[str, float]:
    """Validation accuracy of a ridge classifier on every block's 2x2-pooled output, fitted on training faces."""
    fit, test = (Faces(*(tensor[:PROBE_FACES] for tensor in part)) for part in (faces, validation))
    targets = F.one_hot(fit.labels, CLASSES).double()
    known = _representations(nodes, data.images(fit.pixels, input_size), PROBE_POOL)
    unknown = _representations(nodes, data.images(test.pixels, input_size), PROBE_POOL)
    result = {}
    for name, z in known.items():
        mean, deviation = z.double().mean(0), z.double().std(0).clamp_min(1e-6)
        a, b = (F.pad((f.double() - mean) / deviation, (0, 1), value=1.0) for f in (z, unknown[name]))
        ridge = RIDGE * len(a) * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        scores = b @ torch.linalg.solve(a.T @ a + ridge, a.T @ targets)
        result[f"unit/{name}/probe_accuracy"] = (scores.argmax(1) == test.labels).double().mean().item()
    return result


def _representations(nodes: list[Node], images: Tensor, pool: int) -> dict[str, Tensor]:
    """Pooled outputs (n, d) of every block but the last, in evaluation mode."""
    for node in nodes:
        node.module.eval()
    blocks = units(nodes, "block")[:-1]
    parts: dict[str, list[Tensor]] = {block.name: [] for block in blocks}
    with torch.no_grad():
        for part in images.split(256):
            features = {IMAGE: part}
            for block in blocks:
                outputs = run(block.nodes, features, block.outputs)
                parts[block.name].append(pooled(list(outputs.values()), pool).flatten(1))
                features = {n: f for n, f in (features | outputs).items() if n not in block.dropped}
    return {name: torch.cat(chunks) for name, chunks in parts.items()}


def gradients(state: State, method: Method, faces: Faces, input_size: int, size: int = 128) -> dict[str, float]:
    """Norm of the gradient that every block's weights get, and its cosine with that of back-propagation, on one batch.

    Where a method is back-propagation the cosine is 1.
    """
    images, labels = data.images(faces.pixels[:size], input_size), faces.labels[:size]
    modules = [node.module for node in state.nodes] + [o.head for o in state.learners if o.head is not None]
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    for module in modules:
        module.train()
    own = _gradients(state.learners, method, images, labels)
    true = _gradients(whole(state.nodes), method, images, labels)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    result = {}
    for name in own:
        norm = own[name].norm()
        cosine = own[name] @ true[name] / (norm * true[name].norm()).clamp_min(1e-20)
        result |= {f"unit/{name}/gradient_norm": norm.item(), f"unit/{name}/bp_cosine": cosine.item()}
    return result


def _gradients(learners: list[Learner], method: Method, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The gradient of every block's weights as one vector."""
    references = method.objective.references(images, labels)
    features, losses = {IMAGE: images}, []
    for learner in learners:
        outputs = run(learner.unit.nodes, features, learner.unit.outputs)
        losses.append(unit_loss(learner, method.objective, outputs, references, labels))
        features |= {name: f.detach() for name, f in outputs.items()} if method.detach else outputs
    nodes = [node for learner in learners for node in learner.unit.nodes]
    weights = [(prefix(node.name), p) for node in nodes for p in node.module.parameters()]
    found = torch.autograd.grad(sum(losses), [p for _, p in weights], allow_unused=True)
    vectors: dict[str, list[Tensor]] = {}
    for (name, p), gradient in zip(weights, found, strict=True):
        vectors.setdefault(name, []).append((torch.zeros_like(p) if gradient is None else gradient).flatten())
    return {name: torch.cat(parts) for name, parts in vectors.items()}
