"""Pictures made in code, and a small network whose units have opinions."""

import io
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from cfpn import checkpoint, training
from cfpn.network import CFPN, build
from cfpn.recipe import Recipe
from cfpn.training import Method
from pipeline.data.drawing import draw_face

MODEL = CFPN(input_size=16, width=16, blocks=2, layers=1, pyramids=1)
VOTING, BP = Method(units=["block1"], vote=True), Method(units="network")
HTML = b"<!DOCTYPE html><html><body>404</body></html>"


@cache
def face(number: int = 0) -> np.ndarray:
    """A drawn face (48, 48) uint8."""
    return draw_face(number % 7, 0, number)


def grey(side: int = 48, number: int = 0) -> Image.Image:
    """A drawn face as a grey picture."""
    return Image.fromarray(face(number)).resize((side, side), Image.Resampling.BICUBIC)


def coloured(width: int = 96, height: int = 96) -> Image.Image:
    """Slopes of three colours that no turn or mirror maps onto themselves."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], 2).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def turned_jpeg(image: Image.Image, orientation: int) -> bytes:
    """A JPEG whose pixels lie as a camera in this orientation stores them, and whose EXIF data say so."""
    T = Image.Transpose
    store = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 6: T.ROTATE_90, 8: T.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image.transpose(store), "JPEG", quality=95, subsampling=0, exif=exif)


def write_weights(path: Path, method: Method = VOTING, **about: object) -> Path:
    """Weights of a small network, drawn from a seed, with opinions that differ from face to face."""
    network = training.start(build(MODEL, 3), method, Recipe(), MODEL.input_size, 3, torch.device("cpu")).network
    random = torch.Generator().manual_seed(0)
    for layer in (module for module in network.modules() if isinstance(module, nn.Linear)):
        if layer.out_features == MODEL.classes:
            nn.init.normal_(layer.weight, 0, 1.5, generator=random)
    tensors = {name: tensor.contiguous() for name, tensor in network.predicting().items()}
    save_file(tensors, path, checkpoint.about(network, asdict(MODEL), **about))
    return path
