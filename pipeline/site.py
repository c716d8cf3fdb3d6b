"""Command `site`: the demo page as a folder of files, for any static file server; the browser runs the network.

`python -m pipeline.site FOLDER` exports the network as ONNX and lays ONNX Runtime for browsers beside it. Its npm
package is fetched by `npm pack` into the ignored folder .npm, unless it is there, and must have the hash below. The
page asks for no other file than those of the folder, and no picture leaves the browser. It takes the middle square of
a picture for a face: the browser has no detector.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

import torch
from torch import Tensor

from cfpn import weights
from cfpn.faces import per_pass
from pipeline.demo import FOLDER
from pipeline.export import compared_faces, export, needs
from pipeline.pictures import annotate, explain
from pipeline.pictures import open as pictures
from pipeline.pictures.answers import Model, load_model
from pipeline.pictures.detect import side_of
from pipeline.pictures.writers import TAKEN
from pipeline.process import InputError, atomic, command_line, run, write_json

EXAMPLE = """example:
  python -m pipeline.site demo && python -m http.server --bind 127.0.0.1 --directory demo
"""
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
MEMBERS = {
    "ort.js": "package/dist/ort.wasm.bundle.min.mjs",  # .js, because not every file server knows .mjs
    "ort-wasm-simd-threaded.wasm": "package/dist/ort-wasm-simd-threaded.wasm",
}  # file of the folder -> file of the package
PAGE = {"page.js": "page.js", "answers.js": "browser.js", "index.html": "demo.html"}  # the last one makes it a page


def write(model: Model, folder: Path, package: Path, pixels: Tensor) -> float:
    """Write the folder; returns the largest difference of a probability to PyTorch's.

    pixels: (n, 1, side, side) uint8, on which they are compared. Raises InputError where the package is not what it
    should be, the network takes colours, or the export differs.
    """
    if model.network.channels != 1:
        raise InputError(f"{model.name}: expected a network of grey faces, found {model.network.channels} channels")
    parts = unpacked(package)
    difference = export(model, folder / "network.onnx", pixels)
    for name, data in parts.items():
        put(folder / name, data)
    write_json(folder / "about.json", about(model))
    for name, source in PAGE.items():
        put(folder / name, (FOLDER / source).read_bytes())
    return difference


def put(path: Path, data: bytes) -> None:
    """Write a file whole."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def about(model: Model) -> dict[str, object]:
    """What browser.js has to know: classes, units, weights, and the numbers that predict uses."""
    units = model.network.units if model.network.classifies else model.network.units[-1:]
    return {
        "classes": model.network.names,
        "units": [unit.name for unit in units],
        "weights": {"name": model.name, "sha256": model.sha256},
        "side": side_of(model.network),
        "most": pictures.MOST_PIXELS,
        "smallest": pictures.SMALLEST,
        "taken": TAKEN,
        "at_once": per_pass(model.network.input_size),
        "patch": explain.PATCH,
        "step": explain.STEP,
        "blur": explain.BLUR,
        "heat": annotate.HEAT,
        "strongest": annotate.STRONGEST,
        "line": annotate.LINE,
        "shortest": annotate.SMALLEST,
        "longest": annotate.LARGEST,
    }


def fetched(folder: Path) -> Path:
    """The npm package as a file in a folder, by `npm pack` where it is not there yet; raises InputError without npm."""
    path = folder / f"{PACKAGE}-{VERSION}.tgz"
    if path.is_file():
        return path
    if shutil.which("npm") is None:
        raise InputError(
            f"npm is not installed; apt-get install -y npm, or put {path.name} of npm's registry at {path}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    ask = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(ask, capture_output=True, text=True)
    if done.returncode or not path.is_file():
        raise InputError(f"{' '.join(ask)}: {(done.stderr or done.stdout).strip().splitlines()[:1]}")
    return path


def unpacked(package: Path) -> dict[str, bytes]:
    """The files that the page needs of a package; raises InputError where its hash is another."""
    found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if found != SHA512:
        raise InputError(f"{package}: expected {PACKAGE} {VERSION} with sha512 {SHA512[:12]}..., found {found[:12]}...")
    with tarfile.open(package) as archive:
        return {name: archive.extractfile(member).read() for name, member in MEMBERS.items()}  # type: ignore[union-attr]


def main() -> None:
    """Command line."""
    parser = command_line("python -m pipeline.site", __doc__, EXAMPLE)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="what is written")
    add("--weights", default=weights.BEST, metavar="NAME|FILE", help="default: %(default)s")
    add(
        "--npm", type=Path, default=Path(".npm"), metavar="DIR", help="where the package is kept (default: %(default)s)"
    )
    args = parser.parse_args()
    needs()
    torch.set_num_threads(1)
    model = load_model(args.weights)
    difference = write(model, args.folder, fetched(args.npm), compared_faces(None, model.network))
    size = sum(path.stat().st_size for path in args.folder.iterdir()) / 1e6
    print(f"{args.folder}: {size:.1f} MB; largest difference of a probability to PyTorch {difference:.1e}")
    print(f"python -m http.server --bind 127.0.0.1 --directory {args.folder}")


if __name__ == "__main__":
    run(main)
