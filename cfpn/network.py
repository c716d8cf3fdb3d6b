"""The cascaded feature pyramid network as a table of nodes (paper section III.B, Figs 1 and 3)."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from cfpn.graph import IMAGE, Cuts, Node, Unit, check_outputs, checked, run, units, walk
from cfpn.heads import Head, UnitHead
from cfpn.layers import Activation, Classifier, Fusion3, SeparableConvolution, Stem
from cfpn.partition import resolved

LEVELS = 5  # feature maps of a pyramid


@dataclass(frozen=True)
class CFPN:
    """Parameters of the network; the defaults are the paper's.

    input_size: side of the image that the network is given. channels, classes: of the data.
    width: channels of a block's output, a multiple of 16. Half of it goes through fusions and pyramids, an eighth is
    the growth of a dense layer; with `layers` of them the block's first map takes the remaining channels.
    """

    name: Literal["cfpn"] = "cfpn"
    input_size: int = 224
    width: int = 128
    activation: Activation = "relu"
    blocks: int = 4
    layers: int = 5
    pyramids: int = 3
    channels: int = 1
    classes: int = 7

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise ValueError(f"model.activation: expected one of {get_args(Activation)}, found {self.activation!r}")
        if self.width < 16 or self.width % 16:
            raise ValueError(f"model.width: expected a positive multiple of 16, found {self.width}")
        if self.blocks < 2 or self.pyramids < 1 or not 1 <= self.layers <= 7:
            raise ValueError("model: expected blocks >= 2, pyramids >= 1 and 1 <= layers <= 7")
        if self.input_size < 2**self.blocks:
            raise ValueError(f"model.input_size: {self.blocks} blocks need at least {2**self.blocks}")


def build(model: CFPN, seed: int) -> list[Node]:
    """Nodes of the CFPN with weights drawn from `seed`; comments give the sizes at the paper's parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nodes = _dense_blocks(model) + _fusion1(model) + _pyramids(model) + _classifier(model)
    for node in nodes:
        node.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    return nodes


def _block(model: CFPN, block: int) -> tuple[str, ...]:
    return tuple(f"block{block}/{i}" for i in range(model.layers + 1))


def _dense_blocks(model: CFPN) -> list[Node]:
    act, growth = model.activation, model.width // 8
    first = model.width - model.layers * growth
    nodes = [Node("block1/0", Stem(model.channels, first, act), (IMAGE,))]  # 112x112x48
    for block in range(1, model.blocks + 1):
        names = _block(model, block)
        if block > 1:
            down = SeparableConvolution(model.width, first, act, stride=2)
            nodes.append(Node(names[0], down, _block(model, block - 1)))  # 56x56x48, 28x28x48, 14x14x48
        for i in range(1, model.layers + 1):
            layer = SeparableConvolution(first + (i - 1) * growth, growth, act)
            nodes.append(Node(names[i], layer, names[:i]))  # o_i, eq (7): 16 maps each, with o_0 128 in all
    return nodes


def _fusion1(model: CFPN) -> list[Node]:
    act, half = model.activation, model.width // 2
    deep = SeparableConvolution(model.width, half, act, size=_size(model, model.blocks - 1))
    shallow = SeparableConvolution(model.width, half, act)
    return [  # eq (13); the two together are the base feature, 28x28x128
        Node("fusion1/deep", deep, _block(model, model.blocks)),  # 14x14x64, upsampled to 28x28x64
        Node("fusion1/shallow", shallow, _block(model, model.blocks - 1)),  # 28x28x64
    ]


def _pyramids(model: CFPN) -> list[Node]:
    act, half = model.activation, model.width // 2
    base: tuple[str, ...] = ("fusion1/deep", "fusion1/shallow")
    nodes, level1 = [], base
    for i in range(1, model.pyramids + 1):
        if i > 1:
            fusion2 = SeparableConvolution(model.width, half, act)
            nodes.append(Node(f"pyramid{i}/fusion2", fusion2, base))  # eq (14): T(base), 28x28x64
            level1 = (f"pyramid{i}/fusion2", f"pyramid{i - 1}/up1")  # 28x28x128
        levels = [level1]
        for level in range(2, LEVELS + 1):
            down = SeparableConvolution(model.width if level == 2 else half, half, act, stride=2)
            nodes.append(Node(f"pyramid{i}/down{level}", down, levels[-1]))  # 14, 7, 4 and 2 pixels wide, 64 maps
            levels.append((f"pyramid{i}/down{level}",))
        above = levels[-1]
        for level in range(LEVELS - 1, 0, -1):
            up = SeparableConvolution(model.width + (half if level == 1 else 0), half, act)
            nodes.append(Node(f"pyramid{i}/up{level}", up, levels[level - 1] + above))  # 4, 7, 14 and 28 pixels wide
            above = (f"pyramid{i}/up{level}",)
    return nodes


def _classifier(model: CFPN) -> list[Node]:
    channels = model.pyramids * (model.width // 2)
    maps = tuple(f"pyramid{i}/up3" for i in range(1, model.pyramids + 1))
    return [
        Node("fusion3", Fusion3(channels, channels // 8), maps),  # 7x7x192, eq (15), 24 hidden units
        Node("classifier", Classifier(channels, model.classes), ("fusion3",)),  # 7
    ]


def _size(model: CFPN, halvings: int) -> int:
    size = model.input_size
    for _ in range(halvings):
        size = (size + 1) // 2
    return size


class Network(nn.Module):
    """A network with its partition into units and the heads of hidden units: what is trained, saved and predicts.

    head, pool: the auxiliary network of hidden units and the side of the maps it takes (0: those of the unit).
    classifies: whether heads are trained to classify. vote: whether they predict together with the network's own
    classifier. seed draws the heads, not the nodes. settings: all of this but the seed, as JSON values.
    names, about: the classes, and what the metadata say of a network that was loaded. shapes: of one image and of the
    features of all nodes for it, by name.
    """

    def __init__(
        self,
        nodes: list[Node],
        cuts: Cuts,
        *,
        input_size: int,
        channels: int = 1,
        classes: int = 7,
        head: Head,
        pool: int = 6,
        classifies: bool = True,
        vote: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.input_size, self.channels, self.classes = input_size, channels, classes
        self.classifies, self.vote = classifies, vote
        self.names, self.about = tuple(map(str, range(classes))), dict[str, Any]()
        self.nodes = nn.ModuleDict({node.name: node.module for node in checked(nodes)})
        self.eval()
        self.shapes = shapes = _shapes(nodes, channels, input_size, input_size)
        self.units = units(nodes, cuts := resolved(cuts, nodes, shapes))
        check_outputs(self.units, shapes, classes)
        self.settings: dict[str, Any] = {
            "cuts": cuts, "input_size": input_size, "channels": channels, "classes": classes, "head": asdict(head),
            "pool": pool, "classifies": classifies, "vote": vote,
        }  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleDict({one.name: _head(head, pool, one, shapes, classes) for one in self.units[:-1]})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (n, classes) of every unit with a classifier for images (n, c, h, w), by name; the network's last."""
        result, walking = dict[str, Tensor](), walk(self.units, {IMAGE: images})
        for unit, inputs in walking:
            outputs = run(unit.nodes, inputs, unit.outputs)
            walking.send(outputs)
            if self.classifies or unit is self.units[-1]:
                result[unit.name] = self.logits(unit, outputs)
        return result

    def logits(self, unit: Unit, outputs: dict[str, Tensor]) -> Tensor:
        """Logits (n, classes) of the unit's own classifier for the unit's outputs, by name."""
        last = unit is self.units[-1]
        return outputs[unit.outputs[0]] if last else cast(UnitHead, self.heads[unit.name]).logits([*outputs.values()])

    def predicting(self) -> dict[str, Tensor]:
        """The part of the state_dict that predictions need: heads only where they classify."""
        return {name: t for name, t in self.state_dict().items() if self.classifies or not name.startswith("heads.")}

    def count(self) -> int:
        """Number of trained parameters that take part in a prediction: of the network, and of heads that vote."""
        modules = [self.nodes, self.heads] if self.vote else [self.nodes]
        return sum(p.numel() for module in modules for p in module.parameters())


def _shapes(nodes: list[Node], *image: int) -> dict[str, torch.Size]:
    device = next((weight.device for node in nodes for weight in node.module.parameters()), None)
    with torch.no_grad():
        features = run(nodes, {IMAGE: torch.zeros(1, *image, device=device)}, [IMAGE, *(node.name for node in nodes)])
    return {name: feature.shape for name, feature in features.items()}


def _head(how: Head, pool: int, unit: Unit, shapes: dict[str, torch.Size], classes: int) -> UnitHead:
    outputs = [shapes[name] for name in unit.outputs]
    size = min([pool or outputs[0][-1]] + [shape[-1] for shape in outputs])
    return UnitHead(how, sum(shape[1] for shape in outputs), size, classes)
