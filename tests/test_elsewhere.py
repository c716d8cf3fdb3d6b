"""Files of unknown origin are data: what is in them is never executed, and a file that is none of ours is named."""

import ast
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import fuzz
from pipeline import evaluate, params
from pipeline.ingest import ingest
from pipeline.pictures.open import open_picture
from pipeline.process import InputError
from pipeline.runs import records
from pipeline.runs import session as sessions

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cfpn", "pipeline", "tune", "bench")
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CALLS = {"torch.load", "pd.read_pickle", "pandas.read_pickle", "eval", "exec"}


class Bomb:
    """What makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def as_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(mark)))


def as_torch(path: Path, mark: Path) -> None:
    torch.save({"weights": Bomb(mark)}, path)


def as_numpy(path: Path, mark: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, history=np.array([Bomb(mark)], dtype=object))


def as_yaml(path: Path, mark: Path) -> None:
    path.write_text(f"profile: !!python/object/apply:os.mkdir [{mark}]\n")


READERS: dict[str, Callable[[Path], object]] = {
    "weights": evaluate.load_network,
    "checkpoint": lambda path: sessions.restore(sessions.Session(fuzz.some_state()), path),
    "split": evaluate.load_faces,
    "faces": lambda path: ingest(path, path.parent / "splits"),
    "picture": open_picture,
    "parameters": params.read,
    "json": records.read_json,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", [as_pickle, as_torch, as_numpy, as_yaml])
def test_a_file_that_would_run_code_is_refused_by_its_name_and_runs_none(
    form: Callable[[Path, Path], None], reader: str, tmp_path: Path
) -> None:
    path, mark = tmp_path / "given", tmp_path / "executed"
    form(path, mark)
    with pytest.raises(InputError, match=f"^{path}"):
        READERS[reader](path)
    assert not mark.exists()


def test_the_files_of_these_tests_would_run_code(tmp_path: Path) -> None:
    path, mark = tmp_path / "given", tmp_path / "executed"
    as_torch(path, mark)
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("given/data.pkl"))
    assert mark.exists()


def name(node: ast.expr) -> str:
    """The dotted name of what is called; nothing where it is none."""
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


@pytest.mark.parametrize("path", [path for one in PACKAGES for path in sorted((ROOT / one).rglob("*.py"))], ids=str)
def test_no_module_unpickles_or_evaluates(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {one.split(".")[0] for one in imported} & MODULES
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    assert not {name(call.func) for call in calls} & CALLS
    unsafe = [word for call in calls for word in call.keywords if word.arg == "allow_pickle"]
    assert all(ast.unparse(word.value) == "False" for word in unsafe)
