"""Stage `inputs`: hashes of all that a training reads but for its parameters, so that nothing else makes it run again.

`python -m pipeline.inputs OUT.json` writes
{"faces": {"file", "sha256"}, "validation": {"file", "sha256"}, "code": "...", "writers": "..."}.

DVC cannot choose a dependency by the profile. The train stage depends on this file in place of the Parquet files and of
the code. When augment.sigma changes and the profile learns from the original faces, the file stays as it is.
"""

from pathlib import Path
from typing import Any

from cfpn.schema import reader
from pipeline import params as parameters
from pipeline.process import InputError, command_line, file_hash, run, write_json
from pipeline.runs.about import ROOT, code_files, digest

# What a run's files hold comes of them.
WRITERS = ("pipeline/inputs.py", "pipeline/params.py", "pipeline/runs/about.py", "pipeline/runs/chance.py",
           "pipeline/runs/records.py", "pipeline/train.py")  # fmt: skip


def files(faces: str, splits: Path, augmented: Path) -> tuple[Path, Path]:
    """The files of faces to learn from and to validate with; faces: train.faces of the parameters."""
    return augmented if faces == "augmented" else splits / "train.parquet", splits / "val.parquet"


def describe(learnt: Path, validation: Path) -> dict[str, Any]:
    """The content of inputs.json; raises InputError where a file is missing."""
    return {
        "faces": _hashed(learnt),
        "validation": _hashed(validation),
        "code": digest(code_files()),
        "writers": digest(ROOT / name for name in WRITERS),
    }


def drawn(path: Path) -> bool:
    """Whether the faces of a split are drawn, as the file itself says."""
    try:
        with reader(path) as (_, description, _):
            return description.drawn
    except ValueError as error:
        raise InputError(str(error)) from error


def _hashed(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; the ingest and augment stages write it")
    return {"file": path.as_posix(), "sha256": file_hash(path)}


def main() -> None:
    """Command line of the stage."""
    parser = command_line(
        "python -m pipeline.inputs",
        "Write hashes of the faces and the code that a training reads.",
        "example: python -m pipeline.inputs data/inputs.json",
    )
    parser.add_argument("out", type=Path, metavar="OUT.json", help="the file to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    parser.add_argument("--splits", type=Path, default=Path("data/splits"), help="default: %(default)s")
    parser.add_argument("--augmented", type=Path, default=Path("data/augmented.parquet"), help="default: %(default)s")
    args = parser.parse_args()
    params = parameters.load(args.params)
    learnt, validation = files(params.train.faces, args.splits, args.augmented)
    content = describe(learnt, validation)
    allow = f"-S profiles/{params.profile}.yaml:photographs=false"
    advice = f"name your file by -S source=FILE, or train on drawn faces by {allow}"
    parameters.refuse_drawn(params, drawn(learnt), advice)
    write_json(args.out, content)


if __name__ == "__main__":
    run(main)
