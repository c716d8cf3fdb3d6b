"""The library works alone, and importing it costs nothing until a name is used."""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

import cfpn
from cfpn.checkpoint import about
from cfpn.prediction import predict
from tests.cfpn.small import MODEL, VOTING, faces, trained

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = ("dvc", "dvclive", "jinja2", "matplotlib", "optuna", "pandas", "PIL", "pydantic", "ray", "ruamel", "sklearn")
PIPELINE += ("torchmetrics", "tqdm", "wandb")


def in_a_fresh_process(code: str, *arguments: object) -> None:
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, cwd=ROOT, env=one)


def test_importing_the_library_imports_neither_torch_nor_numpy() -> None:
    in_a_fresh_process("import sys, cfpn; assert not {'torch', 'numpy', 'pyarrow'} & sys.modules.keys()")


@pytest.mark.parametrize("name", cfpn.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert callable(getattr(cfpn, name))


def test_an_unknown_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'cfpn' has no attribute 'nothing'"):
        cfpn.nothing  # noqa: B018


THREE_LINES = """
from cfpn import load, predict
network = load(sys.argv[1])
probabilities = predict(network, pixels)
"""


def test_three_lines_load_a_network_and_predict_where_nothing_of_the_pipeline_is_installed(tmp_path: Path) -> None:
    network, pixels = trained(VOTING).averaged, faces(11, seed=5).pixels[:, 0].numpy()
    kept = {name: tensor.contiguous() for name, tensor in network.predicting().items()}
    save_file(kept, tmp_path / "weights.safetensors", metadata=about(network, asdict(MODEL)))
    np.save(tmp_path / "pixels.npy", pixels)
    blocked = f"import sys, numpy; sys.modules.update(dict.fromkeys({PIPELINE!r})); pixels = numpy.load(sys.argv[2])"
    kept_in_file = "numpy.save(sys.argv[3], probabilities.numpy())"
    paths = [tmp_path / name for name in ("weights.safetensors", "pixels.npy", "found.npy")]
    in_a_fresh_process(blocked + THREE_LINES + kept_in_file, *paths)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), predict(network, pixels).numpy())


def test_training_too_works_where_nothing_of_the_pipeline_is_installed() -> None:
    in_a_fresh_process(
        f"import sys; sys.modules.update(dict.fromkeys({PIPELINE!r}))\n"
        "from tests.cfpn.small import *\n"
        "state = begin(method('block'), nodes=build(MODEL, 0))\n"
        "assert len(epochs(state, method('block'), RECIPE, 1)) == 1\n"
    )
