"""Command `export`: a trained network -> one ONNX file that takes faces as they are and gives probabilities.

`python -m pipeline.export OUT.onnx` writes it after it has compared the file with PyTorch on a split. Preprocessing and
vote are inside: input `pixels` (n, side, side) uint8 grey, or (n, channels, side, side); outputs `probabilities`
(n, classes) and `units` (n, units, classes), each unit's own. The metadata hold classes, units, and the hash of the
weights.
`--int8` writes weights and features in 8 bits and says what they cost.
"""

import contextlib
import io
import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cfpn import faces, prediction, weights
from cfpn.network import Network
from pipeline.data.drawing import draw_face
from pipeline.pictures.answers import Model, load_model
from pipeline.pictures.detect import side_of
from pipeline.process import InputError, atomic, command_line, run

EXAMPLE = """example:
  python -m pipeline.export nbp.onnx --split data/splits/test.parquet
  python -m pipeline.export small.onnx --split data/splits/test.parquet --int8 data/splits/val.parquet
"""
MOST = 1e-4  # difference of a probability to PyTorch's above which the file is not written
DRAWN = 128  # faces of the comparison where no split is given
Answers = tuple[NDArray[np.float32], NDArray[np.float32]]  # probabilities (n, classes), twice
NEEDED = ("onnx", "onnxruntime", "onnxscript")
CALIBRATING, AT_ONCE = 512, 16  # faces from which the ranges of 8-bit features come: a moving average over chunks
INT8 = "write 8-bit weights and features; the faces of this split, not those of --split, give the ranges"
EIGHT_BITS = ["Conv", "Relu", "Concat", "AveragePool", "Resize"]  # not preprocessing, classifiers and vote


class Whole(nn.Module):
    """A network from pixels to probabilities: what the file holds."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (n, classes), and those of each unit (n, units, classes)."""
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels
        logits = self.network(faces.images(pixels, self.network.input_size))
        units = {name: own.log_softmax(1) for name, own in logits.items()}
        return prediction.vote(units, self.network.vote), torch.stack([*units.values()], 1).exp()


def export(model: Model, path: Path, pixels: Tensor) -> float:
    """Write the file if it agrees with PyTorch on pixels (n, channels, side, side) uint8.

    Returns the largest difference of a probability. Raises InputError where it is more than MOST; then nothing is
    written.
    """
    with atomic(path) as temporary:
        convert(model, temporary)
        return agreeing(model.network, temporary, pixels, path)


def agreeing(network: Network, temporary: Path, pixels: Tensor, path: Path) -> float:
    """`compare` of a temporary file; InputError, which names the `path` that is to be, where it is more than MOST."""
    difference = compare(network, temporary, pixels)
    if not difference <= MOST:
        raise InputError(
            f"{path}: not written; a probability differs by {difference:.1e} from PyTorch's, more than {MOST}"
        )
    return difference


def convert(model: Model, path: Path) -> None:
    """Write the network and its metadata as ONNX."""
    import onnx

    network = model.network
    side = side_of(network)
    shape = (2, side, side) if network.channels == 1 else (2, network.channels, side, side)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it speaks of its own steps
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nobody needs here
        program = torch.onnx.export(
            Whole(network).eval(),
            (torch.zeros(shape, dtype=torch.uint8),),
            input_names=["pixels"],
            output_names=["probabilities", "units"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("faces")}},
            dynamo=True,
        )
    assert program is not None  # it is None only where it writes the file itself
    found = program.model_proto
    about = {
        "classes": network.names,
        "units": [unit.name for unit in network.units] if network.classifies else [network.units[-1].name],
        "weights": {"name": model.name, "sha256": model.sha256},
        "training": network.about.get("training"),
    }
    onnx.helper.set_model_props(found, {name: json.dumps(value) for name, value in about.items()})
    onnx.save(found, path)


def compare(network: Network, path: Path, pixels: Tensor) -> float:
    """Largest difference between the file's probabilities and PyTorch's, in batches and for one face alone."""
    chunks = torch.split(pixels, faces.per_pass(network.input_size))
    expected = prediction.predict(network, pixels).numpy()
    found = np.concatenate([*predicted(path, chunks), *predicted(path, [pixels[:1]])])
    return float(np.abs(found - np.concatenate([expected, expected[:1]])).max())


def predicted(path: Path, chunks: tuple[Tensor, ...] | list[Tensor]) -> list[NDArray[np.float32]]:
    """Probabilities that ONNX Runtime computes for chunks of pixels (n, channels, side, side)."""
    own = session(path)
    rank = len(own.get_inputs()[0].shape)
    arrays = ((chunk[:, 0] if rank == 3 else chunk).numpy() for chunk in chunks)
    return [own.run(["probabilities"], {"pixels": array})[0] for array in arrays]


def session(path: Path) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    """A file in ONNX Runtime, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def export_int8(model: Model, path: Path, pixels: Tensor, ranges: Tensor) -> Answers:
    """Write the network in 8 bits, feature ranges from `ranges`; returns the answers to pixels before and after it.

    Raises InputError as `export` does.
    """
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.onnx"
        convert(model, whole)
        agreeing(model.network, whole, pixels, path)
        with atomic(path) as temporary:
            quantize(whole, temporary, ranges)
            chunks = torch.split(pixels, faces.per_pass(model.network.input_size))
            before, after = (np.concatenate(predicted(file, chunks)) for file in (whole, temporary))
    return before, after


class Chunks:
    """Faces as ONNX Runtime's calibration asks for them."""

    def __init__(self, pixels: Tensor) -> None:
        self.left = iter(torch.split(pixels, AT_ONCE))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next chunk, None at the end."""
        return next(({"pixels": chunk.numpy()} for chunk in self.left), None)


def quantize(whole: Path, path: Path, ranges: Tensor) -> None:
    """Write a file of `convert` anew with 8-bit weights, one scale per channel, and 8-bit features."""
    from onnxruntime import quantization

    logging.getLogger().setLevel(logging.ERROR)  # it advises to do what the exporter has done already
    quantization.quantize_static(
        whole,
        path,
        Chunks(ranges[:, 0] if ranges.shape[1] == 1 else ranges),
        op_types_to_quantize=EIGHT_BITS,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"CalibMovingAverage": True},
    )


def compared_faces(split: Path | None, network: Network, option: str = "--split") -> Tensor:
    """Pixels of a split that an option names, or drawn ones."""
    side = side_of(network)
    if split is None:
        drawn = torch.from_numpy(np.stack([draw_face(number % 7, 0, number) for number in range(DRAWN)]))[:, None]
        return F.interpolate(drawn.float(), side).byte().repeat(1, network.channels, 1, 1)
    try:
        pixels = faces.load(split).pixels
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{option}: {error}") from error
    if pixels.shape[1:] != (network.channels, side, side) or not len(pixels):
        raise InputError(
            f"{option}: {split}: expected faces (n, {network.channels}, {side}, {side}), found {tuple(pixels.shape)}"
        )
    return pixels


def labels_of(split: Path | None, network: Network) -> NDArray[np.int64] | None:
    """Labels of a split, None without one; raises InputError where they are those of other classes."""
    if split is None:
        return None
    found = faces.load(split)
    if found.classes != network.names:
        raise InputError(
            f"--split: {split}: expected the classes {', '.join(network.names)}, found {', '.join(found.classes)}"
        )
    return found.labels.numpy()


def needs() -> None:
    """Raise InputError where a package is missing that the export needs."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(f"{', '.join(missing)}: not installed; pip install '.[export]'")


def cost(before: NDArray[np.float32], after: NDArray[np.float32], labels: NDArray[np.int64] | None) -> str:
    """What 8 bits cost: how many answers stay, and with labels the accuracy before and after."""
    same = f"{(before.argmax(1) == after.argmax(1)).mean():.1%} of the answers stay"
    if labels is None:
        return same
    scores = [f"{(found.argmax(1) == labels).mean():.2%}" for found in (before, after)]
    return f"{same}, accuracy {scores[1]} instead of {scores[0]}"


def main() -> None:
    """Command line."""
    parser = command_line("python -m pipeline.export", __doc__, EXAMPLE)
    parser.add_argument("out", type=Path, metavar="OUT.onnx", help="what is written")
    parser.add_argument("--weights", default=weights.BEST, metavar="NAME|FILE", help="default: %(default)s")
    parser.add_argument("--split", type=Path, help="faces on which the file is compared (default: 128 drawn ones)")
    parser.add_argument("--int8", type=Path, metavar="SPLIT", help=INT8)
    args = parser.parse_args()
    needs()
    torch.set_num_threads(1)
    model = load_model(args.weights)
    pixels = compared_faces(args.split, model.network)
    if args.int8:
        labels = labels_of(args.split, model.network)
        ranges = compared_faces(args.int8, model.network, "--int8")[:CALIBRATING]
        before, after = export_int8(model, args.out, pixels, ranges)
        difference, more = float(np.abs(after - before).max()), "; " + cost(before, after, labels)
    else:
        difference, more = export(model, args.out, pixels), ""
    told = f"largest difference of a probability over {len(pixels)} faces {difference:.1e}{more}"
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB; {told}")


if __name__ == "__main__":
    run(main)
