"""Command `export`: a trained network -> one ONNX file that takes faces as they are and gives probabilities.

`python -m pipeline.export OUT.onnx` writes it after it has compared the file with PyTorch on a split. Preprocessing and
vote are inside: input `pixels` (n, 48, 48) uint8 grey, or (n, channels, 48, 48); outputs `probabilities` (n, classes)
and `units` (n, units, classes), each unit's own. The metadata hold classes, units, and the hash of the weights.
"""

import argparse
import contextlib
import io
import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cfpn import faces, prediction, weights
from cfpn.network import Network
from pipeline.data.drawing import draw_face
from pipeline.pictures.answers import Model, load_model
from pipeline.pictures.detect import SIDE
from pipeline.process import InputError, atomic, run

EXAMPLE = """example:
  python -m pipeline.export nbp.onnx --split data/splits/test.parquet
"""
MOST = 1e-4  # difference of a probability to PyTorch's above which the file is not written
DRAWN = 128  # faces of the comparison where no split is given
BATCH = 128
NEEDED = ("onnx", "onnxruntime", "onnxscript")


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
    """Write the file if it agrees with PyTorch on pixels (n, channels, 48, 48) uint8; returns the largest difference.

    Raises InputError where a probability differs by more than MOST; then nothing is written.
    """
    with atomic(path) as temporary:
        convert(model, temporary)
        difference = compare(model.network, temporary, pixels)
        if not difference <= MOST:
            raise InputError(
                f"{path}: not written; a probability differs by {difference:.1e} from PyTorch's, more than {MOST}"
            )
    return difference


def convert(model: Model, path: Path) -> None:
    """Write the network and its metadata as ONNX."""
    import onnx

    network = model.network
    shape = (2, SIDE, SIDE) if network.channels == 1 else (2, network.channels, SIDE, SIDE)
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
    expected = prediction.predict(network, pixels).numpy()
    found = np.concatenate([*(predicted(path, torch.split(pixels, BATCH))), *(predicted(path, [pixels[:1]]))])
    return float(np.abs(found - np.concatenate([expected, expected[:1]])).max())


def predicted(path: Path, chunks: tuple[Tensor, ...] | list[Tensor]) -> list[NDArray[np.float32]]:
    """Probabilities that ONNX Runtime computes for chunks of pixels (n, channels, 48, 48)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rank = len(session.get_inputs()[0].shape)
    arrays = ((chunk[:, 0] if rank == 3 else chunk).numpy() for chunk in chunks)
    return [session.run(["probabilities"], {"pixels": array})[0] for array in arrays]


def compared_faces(split: Path | None, network: Network) -> Tensor:
    """Pixels of a split, or drawn ones."""
    if split is None:
        drawn = np.stack([draw_face(number % 7, 0, number) for number in range(DRAWN)])
        return torch.from_numpy(drawn)[:, None].repeat(1, network.channels, 1, 1)
    try:
        pixels = faces.load(split).pixels
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"--split: {error}") from error
    if pixels.shape[1:] != (network.channels, SIDE, SIDE) or not len(pixels):
        raise InputError(
            f"--split: {split}: expected faces (n, {network.channels}, {SIDE}, {SIDE}), found {tuple(pixels.shape)}"
        )
    return pixels


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.export",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT.onnx", help="what is written")
    parser.add_argument("--weights", default=weights.BEST, metavar="NAME|FILE", help="default: %(default)s")
    parser.add_argument("--split", type=Path, help="faces on which the file is compared (default: 128 drawn ones)")
    args = parser.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)}: not installed; pip install 'cfpn-nbp[export]'")
    torch.set_num_threads(1)
    model = load_model(args.weights)
    pixels = compared_faces(args.split, model.network)
    difference = export(model, args.out, pixels)
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {size:.2f} MB; largest difference of a probability over {len(pixels)} faces {difference:.1e}")


if __name__ == "__main__":
    run(main)
