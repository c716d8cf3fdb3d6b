"""Where Ray Tune keeps a sweep's state (folder, NFS or s3://), and whether a sweep found there may be continued."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyarrow import fs

from pipeline.process import InputError
from tune.names import SEED

if TYPE_CHECKING:
    from ray import tune

SPECIFICATION, FINISHED = "specification.json", "finished"
PLACES = "places.json"  # of a checkpoint: where each epoch ran


class Storage(NamedTuple):
    """root: what Ray is told, a URI or an absolute path; system and path: the sweep's own folder for pyarrow."""

    root: str
    system: fs.FileSystem
    path: str


def at(text: str, name: str) -> Storage:
    """The storage of the sweep `name` below a folder or URI.

    Raises InputError for a URI that pyarrow cannot open, and for a name that is no name of one folder.
    """
    if not name or name in (".", "..") or "/" in name:
        raise InputError(f"NAME: expected the name of a sweep, without '/', found {name!r}")
    root = text if "://" in text else str(Path(text).resolve())
    try:
        system, path = fs.FileSystem.from_uri(root)
    except (ValueError, OSError) as error:
        raise InputError(f"--storage {text}: {error}") from error
    return Storage(root, system, f"{path.rstrip('/')}/{name}")


def uri(storage: Storage) -> str:
    """The sweep's folder as Ray names it; options of a URI stay at its end."""
    folder, mark, options = storage.root.partition("?") if "://" in storage.root else (storage.root, "", "")
    return f"{folder.rstrip('/')}/{storage.path.rpartition('/')[2]}{mark}{options}"


def apart(storage: Storage, tables: Path) -> None:
    """Raise InputError where the sweep's folder and that of its tables are one or one holds the other."""
    if not isinstance(storage.system, fs.LocalFileSystem):
        return
    state, tables = Path(storage.path).resolve(), tables.resolve()
    if state.is_relative_to(tables) or tables.is_relative_to(state):
        raise InputError(f"--storage: {state} is cleared for a new sweep; the tables in {tables} need another folder")


def begin(storage: Storage, specification: dict[str, Any]) -> None:
    """Clear the sweep's folder and write down what is to run there; raises InputError where that is impossible.

    A folder with files and without a sweep's specification is somebody else's: it is refused and left as it is.
    """
    try:
        own = found(storage) is not None
        there = storage.system.get_file_info(fs.FileSelector(storage.path, allow_not_found=True))
        if not own and any(info.base_name != f"{SPECIFICATION}.part" for info in there):
            raise InputError(f"--storage: {storage.path} holds files that are of no sweep; name another folder")
        for info in there if own else []:  # the specification last: after a kill the rest is still the sweep's own
            delete = storage.system.delete_dir if info.type == fs.FileType.Directory else storage.system.delete_file
            if info.base_name != SPECIFICATION:
                delete(info.path)
        if own:
            storage.system.delete_dir(storage.path)
        storage.system.create_dir(storage.path, recursive=True)
    except OSError as error:
        raise InputError(f"--storage: cannot write to {storage.path}: {error}") from error
    specify(storage, specification)


def specify(storage: Storage, specification: dict[str, Any]) -> None:
    """Write a sweep's specification into its folder and mark it as unfinished; InputError where that is impossible."""
    try:
        if finished(storage):
            storage.system.delete_file(f"{storage.path}/{FINISHED}")
        write(storage, SPECIFICATION, json.dumps(specification, indent=2).encode())
    except OSError as error:
        raise InputError(f"--storage: cannot write to {storage.path}: {error}") from error


def write(storage: Storage, name: str, content: bytes) -> None:
    """Write a file of the sweep's folder, whole or not at all; a kill in the middle leaves a .part beside it."""
    path = f"{storage.path}/{name}"
    with storage.system.open_output_stream(f"{path}.part") as stream:
        stream.write(content)
    storage.system.move(f"{path}.part", path)


def probe(storage: Storage) -> None:
    """Raise InputError where the sweep's folder takes no file of 1 MiB, for want of space or of rights."""
    path = f"{storage.path}/probe"
    try:
        with storage.system.open_output_stream(path) as stream:
            stream.write(bytes(2**20))
        storage.system.delete_file(path)
    except OSError as error:
        raise InputError(
            f"--storage: cannot write to {storage.path}: {error}; --resume continues once it can"
        ) from error


def found(storage: Storage) -> dict[str, Any] | None:
    """The specification of the sweep kept there; None where there is none, or a file of that name by somebody else."""
    path = f"{storage.path}/{SPECIFICATION}"
    try:
        if storage.system.get_file_info(path).type == fs.FileType.NotFound:
            return None
        with storage.system.open_input_stream(path) as stream:
            content = json.loads(stream.read())
    except (OSError, ValueError) as error:
        raise InputError(f"--storage: cannot read {path}: {error}") from error
    return content if isinstance(content, dict) and "sweep" in content else None


def finish(storage: Storage) -> None:
    """Note that the tables of the sweep kept there are written."""
    storage.system.open_output_stream(f"{storage.path}/{FINISHED}").close()


def finished(storage: Storage) -> bool:
    """Whether the tables of the sweep kept there were written."""
    return bool(storage.system.get_file_info(f"{storage.path}/{FINISHED}").type != fs.FileType.NotFound)


def checkpoints(storage: Storage, name: str) -> "list[tune.Checkpoint]":
    """Checkpoints of a point of the grid, that of most epochs first; folders are named by the point and Ray's trial.

    Ray's own number in a checkpoint's name begins anew in every session, so it orders those of one session alone.
    """
    from ray import tune  # here, so that reading outcomes needs no Ray

    found = _checkpoints(storage, name)
    found.sort(key=lambda info: (epochs(storage, info.path), info.base_name, info.path), reverse=True)
    return [tune.Checkpoint(info.path, storage.system) for info in found]


def epochs(storage: Storage, checkpoint: str) -> int:
    """Epochs that the checkpoint in a folder stands after; 0 where it is damaged."""
    try:
        with storage.system.open_input_stream(f"{checkpoint}/{PLACES}") as stream:
            return len(json.loads(stream.read()))
    except (OSError, ValueError, TypeError):
        return 0


def forget(storage: Storage, name: str) -> None:
    """Delete the checkpoints of a point whose outcome is kept: they would fill the disk."""
    for info in _checkpoints(storage, name):
        storage.system.delete_dir(info.path)


def _checkpoints(storage: Storage, name: str) -> list[fs.FileInfo]:
    everything = storage.system.get_file_info(fs.FileSelector(storage.path, allow_not_found=True))
    return [
        info
        for folder in everything
        if folder.base_name.rpartition("-")[0] == name
        for info in storage.system.get_file_info(fs.FileSelector(folder.path))
        if info.base_name.startswith("checkpoint_")
    ]


def reseeded(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two specifications are of one grid and differ in the number of seeds alone: they share trials."""
    return old != new and identity(old) == identity(new)


def identity(about: dict[str, Any]) -> dict[str, Any]:
    """What tells a sweep from others: its specification, of a grid without the seeds.

    Samplers and schedulers choose by what they have seen; to them other seeds make another sweep.
    """
    if about.get("search") != "grid":
        return about
    return about | {"space": {name: values for name, values in about["space"].items() if name != SEED}}


def differences(old: object, new: object, name: str = "") -> list[str]:
    """Dotted names of what differs between two specifications, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [text for key in keys for text in differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    return [] if old == new else [f"{name}: {json.dumps(old)} there, {json.dumps(new)} now"]
