"""Weights & Biases: one run per training, online only where its server answers; the history is the truth.

What is written offline goes up later by `wandb sync --include-offline wandb/offline-run-*`; `wandb leet wandb` shows it
in the terminal without an account. WANDB_MODE=disabled switches W&B off.
"""

import functools
import os
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pipeline.process import file_hash
from pipeline.sinks import Row, Sink, forgiving

if TYPE_CHECKING:
    from wandb import Run

    from cfpn.training import Record

PATIENCE = 2.0  # seconds for the server's first answer
Mode = Literal["online", "offline", "disabled", "shared"]
MODE = "WANDB_MODE"
SHOWN = ("train/", "val/", "unit/", "worker/")  # beginnings of metrics; those of blocks stand in history.csv alone
OWN_FOLDERS = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")  # by default in the home folder


@contextmanager
def wandb(
    project: str,
    group: str,
    name: str,
    identity: str,
    config: dict[str, Any],
    history: Sequence[Row],
    folder: Path,
    weights: Path,
) -> Iterator[Sink]:
    """One W&B run below `folder`/wandb; an offline run begun before is replaced by a replay of the history.

    An online run begun before gets the rows of the history that it lacks. A block that ends well has written `weights`,
    and the run links them. Trouble with W&B is said on standard error and never ends a training.
    """
    run = None
    with forgiving("no W&B run, the training goes on without"):
        run = begin(project, group, name, identity, config, history, folder)

    def log(record: "Record") -> None:
        if run is not None and record.complete:
            with forgiving(f"epoch {record.epoch} is not in W&B"):
                run.log(shown({"epoch": record.epoch, "step": record.step} | record.scalars), step=record.epoch)

    try:
        yield log
        if run is not None:
            with forgiving("W&B does not link the weights"):
                link(run, name, weights)
    finally:
        if run is not None:
            with forgiving("the W&B run was not finished"):
                run.finish()


def begin(
    project: str, group: str, name: str, identity: str, config: dict[str, Any], history: Sequence[Row], folder: Path
) -> "Run":
    """A run that holds the rows of the history; several may be open at once. Offline where the server refuses it."""
    how = mode(folder)
    try:
        run = _begin(project, group, name, identity, config, folder, how)
    except Exception as error:
        if how != "online":
            raise
        how = _offline(f"{type(error).__name__}: {error}")
        run = _begin(project, group, name, identity, config, folder, how)
    run.define_metric("*", step_metric="epoch")
    first = run.step if how == "online" else 0  # of an online run: one behind its last row
    for row in history:
        if row["epoch"] >= first:
            run.log(shown(row), step=int(row["epoch"]))
    return run


def shown(row: Row) -> Row:
    """What of an epoch W&B gets: dashboards sort by name, and the many metrics of blocks would come first."""
    return {name: value for name, value in row.items() if name in ("epoch", "step") or name.startswith(SHOWN)}


def link(run: "Run", name: str, weights: Path) -> None:
    """An artifact that refers to the weights where they lie; the MD5 sum finds them in DVC's cache later."""
    import wandb as client

    artifact = client.Artifact(name, type="model", metadata={"md5": file_hash(weights, "md5")})
    artifact.add_reference(weights.resolve().as_uri(), name=weights.name)
    run.log_artifact(artifact)


def dvc(files: Iterable[Path]) -> dict[str, Any]:
    """Which state of DVC a run belongs to: its experiment, if it is of one, and data by the MD5 sums of dvc.lock."""
    data = {file.as_posix(): file_hash(file, "md5") for file in files}
    return {"experiment": os.environ.get("DVC_EXP_NAME"), "data": data}


def _begin(
    project: str, group: str, name: str, identity: str, config: dict[str, Any], folder: Path, how: Mode
) -> "Run":
    import wandb as client

    with replaced(folder / "wandb", identity if how == "offline" else None):
        return client.init(
            project=project, group=group, name=name, id=identity, resume="allow", mode=how, dir=folder,
            config=config, reinit="create_new", settings=client.Settings(silent=True, console="off"),
        )  # fmt: skip


@contextmanager
def replaced(folder: Path, identity: str | None) -> Iterator[None]:
    """Remove earlier offline runs of an identity once the block has begun another; where it fails they stay."""
    runs = [] if identity is None else list(folder.glob(f"offline-run-*-{identity}"))
    aside = [run.rename(run.with_name(f".{run.name}")) for run in runs]
    try:
        yield
    except BaseException:
        for run, kept in zip(runs, aside, strict=True):
            shutil.rmtree(run, ignore_errors=True)  # half begun, within the same second
            kept.rename(run)
        raise
    left = [] if identity is None else list(folder.glob(f".offline-run-*-{identity}"))  # a killed process leaves some
    for kept in left:
        shutil.rmtree(kept)


def mode(folder: Path) -> Mode:
    """Online, offline or disabled: as WANDB_MODE says, by default online where somebody is logged in.

    Being logged in is not being connected: W&B itself would wait long and keep no run. So the server is asked first,
    once, for PATIENCE seconds; where it does not answer, WANDB_MODE is offline from then on, for children as well.
    """
    own_folders(folder)
    import wandb as client

    wanted = os.environ.get(MODE)
    if wanted not in (None, "online"):
        return cast(Mode, wanted)
    server = client.setup().settings.base_url
    if not asked(server):
        return _offline(f"{server} did not answer within {PATIENCE:g} s" if wanted or has_key() else None)
    return "online" if wanted or client.login(prompt=False, verify=False) else "offline"


def has_key() -> bool:
    """Whether somebody seems to be logged in, as far as the environment and ~/.netrc tell without asking anybody."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return os.access(netrc, os.R_OK) and "wandb" in netrc.read_text(errors="replace")


def _offline(reason: str | None) -> Mode:
    os.environ[MODE] = "offline"
    if reason:
        print(f"warning: W&B runs are written offline: {reason}", file=sys.stderr)
    return "offline"


def answers(server: str) -> bool:
    """Whether anything answers HTTP there within PATIENCE seconds, whatever it says."""
    import requests  # as W&B itself does, so that proxies and certificates are its own

    found = threading.Event()

    def ask() -> None:
        try:
            requests.head(server, timeout=PATIENCE, allow_redirects=False)
        except (requests.RequestException, OSError):
            return
        found.set()

    asking = threading.Thread(target=ask, daemon=True)  # the look-up of a name has no time limit of its own
    asking.start()
    asking.join(PATIENCE)
    return found.is_set()


@functools.cache
def asked(server: str) -> bool:
    """The same, and one attempt for all runs of this process."""
    return answers(server)


def own_folders(folder: Path) -> None:
    """Keep W&B's caches and settings below `folder`/wandb where the home folder cannot be written."""
    home = Path("~").expanduser()
    for name in OWN_FOLDERS:
        if name == "WANDB_DATA_DIR" or not os.access(home, os.W_OK):
            os.environ.setdefault(name, str(folder / "wandb"))
