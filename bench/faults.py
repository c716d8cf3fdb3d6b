"""`make faults`: every stage and a sweep under every fault; what a user sees, and what the next `dvc repro` gives.

A cell is a stage and a fault. Each starts from a copy of a tiny workflow that ran once, in which the stage alone has
yet to run. `dvc repro` runs it, the fault happens while it writes, and a plain `dvc repro` follows. A cell is right
where the exit code is the documented one, no traceback is shown, no process and no half-written file is left, and all
results equal those of the undisturbed run, bit for bit.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from ruamel.yaml import YAML

from bench.faulty import OUTLIVED, SWEEP
from bench.origin import origin
from pipeline.process import InputError, command_line, run, write_json
from pipeline.runs import records
from pipeline.runs.about import digest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 1800  # seconds of a command
GRACE = 120.0  # seconds for its processes to end after it


class Stage(NamedTuple):
    """What runs in a stage, the input that is damaged, the folder of its outputs, the moment of a fault."""

    runs: str
    reads: str | None
    writes: str
    at: int = 1


STAGES = {
    "sample": Stage("pipeline.sample", None, "data"),
    "ingest": Stage("pipeline.ingest", "data/sample.csv", "data/splits"),
    "augment": Stage("pipeline.augment", "data/splits/train.parquet", "data"),
    "inputs": Stage("pipeline.inputs", None, "data"),
    "train@nbp-0": Stage("pipeline.train", "data/splits/train.parquet", "runs/nbp-0", at=2),
    "evaluate@nbp-0": Stage("pipeline.evaluate", "runs/nbp-0/model.safetensors", "results/evaluate/nbp-0"),
    "bench": Stage("bench.step", None, "results"),
    "compare": Stage("pipeline.compare", "results/evaluate/nbp-0/predictions.parquet", "results/compare"),
    "report": Stage("pipeline.report", "runs/nbp-0/history.csv", "report"),
    "sweep@activation": Stage(SWEEP, "data/splits/train.parquet", "sweeps/results/activation", at=2),
}
KILLED, DISTURBED = -9, -1  # the last: what ran first has failed by what came second
CRUCIAL = ("train@nbp-0", "lost Ray worker")  # with the worker an epoch is lost, and begins again
EVERYWHERE = {
    "kill -9": {KILLED},
    "SIGTERM": {143},
    "Ctrl-C": {130},
    "disk full": {2},
    "read-only output": {2},
    "second process": {0, 2},
    "lost driver": {KILLED},  # of `dvc repro` itself
}  # faults of every stage with the exit codes that are right
CODES = EVERYWHERE | {"damaged input": {2}, "no network": {0}, "lost Ray worker": {0}}
CONNECTED = ("train@nbp-0", "sweep@activation")  # to W&B, and to Ray
CELLS = [
    *((stage, fault) for fault in EVERYWHERE for stage in STAGES),
    *((stage, "damaged input") for stage, one in STAGES.items() if one.reads),
    *((stage, fault) for fault in ("no network", "lost Ray worker") for stage in CONNECTED),
]
PLACES, PAGE = ("data", "runs", "results", "sweeps/results"), "report"  # of results, and of their page
TIMES = ("bench.json", "compare.json", "compare.md", "run.json", "sweep.json", "timing.csv", "timing.json")
UNREACHABLE = {"WANDB_MODE": None, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


class Seen(NamedTuple):
    """A command's exit code and output."""

    code: int
    text: str


def project(folder: Path) -> None:
    """A copy of the files that git knows or would take, at a tiny size, without the results that the workflow wrote."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        raise InputError(f"{ROOT}: git knows no files here; expected a clone")
    for name in found.stdout.split("\0"):
        if name != "dvc.lock" and not name.startswith("results/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    change(folder / "params.yaml", sample={"rows": 200}, bench={"rounds": 2, "batch": 16})
    change(folder / "profiles/sample.yaml", model={"width": 16, "input_size": 16, "layers": 1, "pyramids": 1},
           train={"epochs": 2, "batch": 32})  # fmt: skip
    change(folder / "sweeps/params.yaml", activation={"space": {"model.activation": ["relu", "tanh"]}})
    who = {f"GIT_{who}_{what}": "faults" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "begin"]):
        subprocess.run(["git", *words], cwd=folder, env=os.environ | who, check=True)
    tool = folder / ".faults/python"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m bench.faulty "$@"\n')
    tool.chmod(0o755)


def prepared(folder: Path) -> Path:
    """The same after one undisturbed run of everything."""
    project(folder)
    for stage in ("", "sweep@activation"):
        done = dvc(folder, stage, "repro", *filter(None, [stage]))
        if done.code:
            raise InputError(f"the undisturbed run failed:\n{done.text[-2000:]}")
    return folder


def change(path: Path, **groups: dict[str, Any]) -> None:
    """Set values in groups of a parameter file."""
    yaml = YAML()
    raw = yaml.load(path)
    for name, values in groups.items():
        raw[name].update(values)
    yaml.dump(raw, path)


def dvc(folder: Path, stage: str, *words: str, **changes: str | None) -> Seen:
    """A DVC command on the project that the stage belongs to, with the fault's `python` before the own one."""
    within = ["--cd", "sweeps"] if stage.startswith("sweep@") else []
    return command(folder, ["dvc", *within, *words], changes)


def command(folder: Path, words: list[str], changes: Mapping[str, str | None]) -> Seen:
    """A command in a session of its own, as in a terminal: Ctrl-C goes to all of its processes."""
    process = subprocess.Popen(
        words, cwd=folder, env=environment(folder, changes), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        text += f"\nmore than {LONGEST} s\n"
    return Seen(process.returncode, text)


def environment(folder: Path, changes: Mapping[str, str | None]) -> dict[str, str]:
    """That of a project's commands in a terminal: its own `python` first, no W&B; None takes a variable away.

    DVC runs a stage in the user's shell. Without one it takes `sh`, which on Debian hides how the stage ended.
    """
    path = os.pathsep.join(map(str, (folder / ".faults", Path(sys.executable).parent, os.environ["PATH"])))
    own = {"PATH": path, "WANDB_MODE": "disabled", "DVC_NO_ANALYTICS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    own["SHELL"] = shutil.which("bash") or "/bin/sh"
    changed = os.environ | own | {"FAULTS": str(folder)} | dict(changes)
    return {name: value for name, value in changed.items() if value is not None}


def strike(folder: Path, stage: str, fault: str) -> Seen:
    """Let the fault happen while the stage runs; returns what was seen of it."""
    one = STAGES[stage]
    if fault == "damaged input":
        return damaged(folder, stage, folder / str(one.reads))
    forget(folder, stage)
    if fault == "no network":
        return dvc(folder, stage, "repro", stage, **UNREACHABLE)
    if fault == "lost Ray worker":
        change(folder / "params.yaml", compute={"workers": 2})
    outputs, seen = folder / one.writes, folder / ".faults/seen.json"
    at = 1 if fault == "lost Ray worker" else one.at  # after the last output of a training no worker is needed
    where = {"FAULT_IN": one.runs, "FAULT_AT": str(at), "FAULT_WRITES": str(outputs), "FAULT_SEEN": str(seen)}
    found = dvc(folder, stage, "repro", stage, FAULT=fault, **where)
    if outputs.exists():
        outputs.chmod(0o755)
    if fault == "second process" and seen.exists():
        second = Seen(*json.loads(seen.read_text()))
        return second if not found.code else Seen(DISTURBED, f"{second.text}\n{found.text}")
    return found


def repeat(folder: Path, stage: str) -> Seen:
    """What a user runs next: `dvc repro`, or `make sweep`, which is the faces' stages and then the sweep."""
    if not stage.startswith("sweep@"):
        return dvc(folder, stage, "repro")
    before = dvc(folder, "inputs", "repro", "inputs")
    return before if before.code else dvc(folder, stage, "repro", stage)


def forget(folder: Path, stage: str) -> None:
    """Leave nothing of a stage: it has yet to run."""
    path = folder / ("sweeps" if "sweep@" in stage else "") / "dvc.lock"
    yaml = YAML()
    lock = yaml.load(path)
    for out in lock["stages"].pop(stage)["outs"]:
        where = path.parent / out["path"]
        shutil.rmtree(where) if where.is_dir() else where.unlink()
    yaml.dump(lock, path)
    shutil.rmtree(path.parent / ".dvc/cache/runs")
    shutil.rmtree(folder / "ray", ignore_errors=True)


def damaged(folder: Path, stage: str, path: Path) -> Seen:
    """The stage's own command on an input of which half is left."""
    lock = folder / ("sweeps" if "sweep@" in stage else "") / "dvc.lock"
    words = YAML(typ="safe").load(lock)["stages"][stage]["cmd"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return command(lock.parent, ["sh", "-c", words if isinstance(words, str) else words[-1]], {})


def still_running(folder: Path) -> Iterator[str]:
    """Processes of a project that have not ended after a while; they are ended."""
    end = time.monotonic() + GRACE
    while (alive := [one for one in psutil.process_iter() if belongs(one, folder)]) and time.monotonic() < end:
        time.sleep(0.2)
    for one in alive:
        with suppress(psutil.Error):
            yield " ".join(one.cmdline())[:80]
            one.kill()


def belongs(process: psutil.Process, folder: Path) -> bool:
    """Whether a process was begun by the commands of a project."""
    try:
        return bool(process.environ().get("FAULTS") == str(folder) and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def results(folder: Path) -> dict[str, str]:
    """Hashes of all that two undisturbed runs write alike; of files with times or dates the name alone counts.

    The page's picture of workers is left out: it is there where several have worked.
    """
    files = (path for place in (*PLACES, PAGE) for path in (folder / place).rglob("*") if path.is_file())
    names = {path: path.relative_to(folder) for path in files if not path.match(f"{PAGE}/workers-*.svg")}
    dated = {path for path, name in names.items() if path.name in TIMES or name.parts[0] == PAGE}
    return {str(name): "" if path in dated else digest([path]) for path, name in names.items()}


def code(seen: Seen) -> int:
    """The stage's exit code, which DVC tells; a command's own where DVC did not run it, or was killed."""
    told = re.findall(r"exited with (-?\d+)$", seen.text, re.MULTILINE)
    return int(told[-1]) if told and seen.code != DISTURBED else seen.code


def said(text: str) -> str:
    """The stage's own last error, warning or word of what it lost; DVC's where it has none."""
    lines = [" ".join(line.split()) for line in text.splitlines() if "(raylet)" not in line]
    own = [line for line in lines if re.match(r"error: |warning: |stopping|.* worker (died|was lost)", line)]
    dvcs = [line.partition(": failed to run")[0] for line in lines if line.startswith("ERROR: ")]
    return (own or dvcs or ["nothing"])[-1]


def walk(base: Path, stage: str, fault: str, wanted: Mapping[str, str]) -> dict[str, Any]:
    """What happens in a cell: said, code, what the next run gives, and whether all of it is right."""
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        folder = Path(place) / "project"
        shutil.copytree(base, folder, symlinks=True)
        seen = strike(folder, stage, fault)
        left = [*still_running(folder)]
        after = repeat(folder, stage)
        left += [*still_running(folder), *(str(path.relative_to(folder)) for path in folder.rglob(".*.part"))]
        found = results(folder)
        differ = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    resumed = "".join(re.findall(r"continue after epoch \d+", after.text)[:1])
    then = f"{resumed}; same results".lstrip("; ") if not differ else f"other results: {', '.join(differ[:3])}"
    right = not (differ or left or after.code) and code(seen) in CODES[fault]
    right = right and not any(word in seen.text + after.text for word in ("Traceback", OUTLIVED))
    if (stage, fault) == CRUCIAL:
        right = right and " worker died" in seen.text
    if not right:
        print(f"--- {stage}, {fault}: left {left}\n{seen.text}\n--- then\n{after.text}", file=sys.stderr)
    return {
        "stage": stage,
        "fault": fault,
        "code": code(seen),
        "said": said(seen.text.replace(f"{folder}/", "")),
        "then": then,
        "right": right,
    }


def walked(path: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    """The cells of a file by stage and fault; none where there is no file."""
    cells = records.read_json(path)["cells"] if path and path.exists() else []
    return {(cell["stage"], cell["fault"]): cell for cell in cells}


def keep(path: Path, cell: dict[str, Any]) -> None:
    """Write a cell in place of its former one, all in the order of CELLS."""
    cells = walked(path) | {(cell["stage"], cell["fault"]): cell}
    write_json(path, {"cells": [cells[place] for place in CELLS if place in cells]})


def main() -> None:
    """Command line."""
    parser = command_line(
        "python -m bench.faults",
        __doc__,
        "example: python -m bench.faults --stages train@nbp-0 --faults 'kill -9' SIGTERM",
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--faults", nargs="+", choices=CODES, default=list(CODES))
    parser.add_argument("--out", type=Path, help="a JSON file, in which these cells are written anew")
    parser.add_argument("--missing", action="store_true", help="only cells that this file lacks")
    args, made = parser.parse_args(), origin()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a background job starts would ignore Ctrl-C
    chosen = [(stage, fault) for stage, fault in CELLS if stage in args.stages and fault in args.faults]
    if args.missing and not args.out:
        parser.error("--missing: expected --out FILE beside it, whose cells are left out")
    if args.missing:
        chosen = [cell for cell in chosen if cell not in walked(args.out)]
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        base = prepared(Path(place) / "project")
        wanted, cells = results(base), []
        for stage, fault in chosen:
            cells.append(walk(base, stage, fault, wanted))
            print(*cells[-1].values(), sep=" | ", flush=True)
            if args.out:
                keep(args.out, cells[-1] | made)
    wrong = [f"{cell['stage']}, {cell['fault']}" for cell in cells if not cell["right"]]
    if wrong:
        raise InputError(f"{len(wrong)} of {len(cells)} cells are wrong: {'; '.join(wrong)}")


if __name__ == "__main__":
    run(main)
