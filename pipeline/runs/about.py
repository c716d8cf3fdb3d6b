"""run.json: what a run is, so that nothing has to be read out of a folder's name."""

from __future__ import annotations  # as in `session`

import hashlib
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpn.faces import Faces
from pipeline.process import json_hash
from pipeline.runs import session as sessions

if TYPE_CHECKING:
    from pipeline.params import Params

ROOT = Path(__file__).resolve().parents[2]
CODE = ("cfpn", "pipeline/networks.py", "pipeline/runs/session.py")  # what decides the numbers of a training


def describe(
    params: Params, method: str, seed: int, faces: Faces, files: Iterable[Path], code: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The content of run.json; faces: those to learn from, files: those of the data.

    code: what `code_now` says where the sources lie as in the repository; a Ray worker elsewhere has them in pieces.
    """
    return {
        "method": method,
        "seed": seed,
        "profile": params.profile,
        "parameters": {
            "model": asdict(sessions.model_for(params, faces)),
            "train": asdict(params.train),
            "method": asdict(params.methods[method]),
        },
        "data": {
            "fingerprint": digest(files),
            "faces": len(faces),
            "drawn": faces.drawn,
            "classes": list(faces.classes),
        },
        "code": dict(code or code_now()),
        "device": sessions.device(params.compute).type,
        "threads": params.compute.threads,
        "workers": sessions.workers_of(params, params.methods[method]),
    }


def code_now() -> dict[str, str | None]:
    """Commit and fingerprint of the code."""
    return {"commit": commit(), "fingerprint": digest(code_files())}


def identity(about: dict[str, Any]) -> str:
    """Hash of all that decides a training's numbers; the commit and the number of workers change none."""
    deciding = {name: value for name, value in about.items() if name not in ("code", "workers", "profile")}
    deciding["code"] = about["code"]["fingerprint"]
    return json_hash(deciding)


def code_files() -> list[Path]:
    """The source files behind CODE, in order."""
    places = [ROOT / name for name in CODE]
    return [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]


def digest(files: Iterable[Path]) -> str:
    """Hash of the contents of files."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]


def commit() -> str | None:
    """The git commit of the code, with "+" where it was changed since; None outside a git checkout."""
    try:
        words = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
