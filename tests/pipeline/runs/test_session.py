"""A training from parameters to a whole checkpoint and on from it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cfpn import checkpoint
from cfpn.faces import Faces
from cfpn.graph import Cuts
from cfpn.heads import Head
from cfpn.network import CFPN
from cfpn.objectives import LocalLoss
from cfpn.schedule import Schedule
from cfpn.training import Method, Record
from pipeline.networks import Baseline, build
from pipeline.params import Compute, Params, Training
from pipeline.process import InputError
from pipeline.runs import session as sessions
from pipeline.runs.about import describe, identity
from pipeline.runs.session import Session, advance, begin, device, read, restore, save

SIDE = 48
RATES = Schedule(shape="one_cycle")
LOCAL = Method(["block1"], local_loss=LocalLoss(pool=4, grid=2, head=Head(hidden=1, width=8)), schedule=RATES)
PARAMS = Params(
    profile="test",
    model=CFPN(input_size=16, width=16, blocks=2, layers=1, pyramids=1),
    train=Training(epochs=3, batch=8, average=0.9),
    methods={"nbp": LOCAL, "bp": Method(units="network", schedule=RATES)},
    compute=Compute(device="cpu", threads=1),
)


def faces(number: int, seed: int) -> Faces:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 7
    pixels = torch.randint(0, 100, (number, 1, SIDE, SIDE), generator=random) + 20 * labels[:, None, None, None]
    return Faces(pixels.to(torch.uint8), labels, torch.arange(1, number + 1))


def epochs(session: Session, method: str = "nbp", number: int = 99) -> list[Record]:
    found = []
    for record in advance(session, PARAMS, PARAMS.methods[method], 0, faces(32, 1), faces(21, 2)):
        found += [record] if record.complete else []
        if len(found) == number:
            break
    return found


def start(method: str = "nbp", seed: int = 0) -> Session:
    return begin(PARAMS, PARAMS.methods[method], seed, faces(32, 1))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", ["nbp", "bp"])
def test_a_session_saved_and_restored_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    straight, first, second = start(method), start(method), start(method, seed=5)
    epochs(straight, method)
    epochs(first, method, 2)
    save(first, tmp_path / "x.safetensors")
    restore(second, tmp_path / "x.safetensors")
    assert second.state.epoch == 2
    epochs(second, method)
    assert second.history == straight.history
    assert second.best_epoch == straight.best_epoch
    assert same(second.best, straight.best)
    assert same(checkpoint.tensors(second.state), checkpoint.tensors(straight.state))


def test_a_checkpoint_is_equal_byte_for_byte_between_identical_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        session = start()
        epochs(session, number=1)
        session.seconds = [1.0]
        save(session, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_session_notes_every_complete_epoch() -> None:
    session = start()
    records = epochs(session)
    assert [row["epoch"] for row in session.history] == [1, 2, 3]
    assert [row["step"] for row in session.history] == [4, 8, 12]
    assert [row["val/loss"] for row in session.history] == [record.scalars["val/loss"] for record in records]
    assert len(session.seconds) == 3
    assert all(seconds > 0 for seconds in session.seconds)


def test_the_best_epoch_is_the_first_of_the_most_accurate_and_its_weights_are_kept() -> None:
    session = start("bp")
    fill = []
    for epoch, accuracy in enumerate([0.2, 0.5, 0.4, 0.5, 0.1], 1):
        for tensor in session.state.averaged.predicting().values():
            tensor.fill_(epoch)
        session.note(Record(epoch, epoch, 1.0, {"val/accuracy": accuracy}, complete=True))
        fill.append((session.best_epoch, {tensor.flatten()[0].item() for tensor in session.best.values()}))
    assert fill == [(1, {1}), (2, {2}), (2, {2}), (2, {2}), (2, {2})]


def test_an_epoch_at_accuracy_zero_is_the_best_as_long_as_it_is_alone() -> None:
    session = start("bp")
    session.note(Record(1, 1, 1.0, {"val/accuracy": 0.0}, complete=True))
    assert session.best_epoch == 1
    assert same(session.best, session.state.averaged.predicting())


def test_a_network_is_built_as_its_parameters_say() -> None:
    assert build(PARAMS.model, 0)[-1].name == "classifier"
    with torch.device("meta"):
        assert [node.name for node in build(Baseline("densenet121"), 0)] == ["densenet121"]


@pytest.mark.parametrize(("name", "known"), [("channels", 1), ("classes", 7)])
def test_channels_and_classes_come_from_the_faces_and_other_ones_are_refused(name: str, known: int) -> None:
    own = replace(PARAMS.model, **{name: 5})
    with pytest.raises(InputError, match=f"model.{name}: the faces have {known}, found 5; leave it out"):
        begin(PARAMS.model_copy(update={"model": own}), LOCAL, 0, faces(16, 0))


def test_a_network_whose_channels_and_classes_have_no_default_takes_those_of_the_faces() -> None:
    @dataclass(frozen=True)
    class Own:
        input_size: int
        channels: int
        classes: int

    fits = PARAMS.model_copy(update={"model": Own(48, 1, 7)})
    assert sessions.model_for(fits, faces(16, 0)) == Own(48, 1, 7)
    with pytest.raises(InputError, match=r"model\.channels: the faces have 1, found 3"):
        sessions.model_for(PARAMS.model_copy(update={"model": Own(48, 3, 7)}), faces(16, 0))


def test_a_limit_that_leaves_out_a_class_of_sorted_rows_is_refused() -> None:
    split = faces(700, 1)
    order = split.labels.argsort(stable=True)
    ordered = Faces(split.pixels[order], split.labels[order], split.rows)
    few, tiny = (
        PARAMS.model_copy(update={"train": replace(PARAMS.train, limit=limit)}) for limit in (300, PARAMS.train.batch)
    )
    with pytest.raises(InputError, match=r"train\.limit: the first 300 faces have none of 'happy'"):
        sessions.learnt(few, ordered, 0)
    assert len(sessions.learnt(few, split, 0).labels) == 300
    assert len(sessions.learnt(PARAMS, ordered, 0).labels) == 700
    assert len(sessions.learnt(tiny, ordered, 0).labels) == 8  # in so few a class may be missing by chance


def test_a_missing_or_broken_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"not a safetensors file")
    for name in ("missing", "broken"):
        with pytest.raises(InputError, match=f"{name}: no readable weights: .*; delete it to begin anew$"):
            restore(start(), tmp_path / name)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    save(start(), tmp_path / "x")
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-100])
    with pytest.raises(InputError, match="no readable weights"):
        read(tmp_path / "x")


def test_a_checkpoint_of_another_method_or_network_is_refused(tmp_path: Path) -> None:
    session = start()
    epochs(session, number=1)
    save(session, tmp_path / "x")
    with pytest.raises(InputError, match="not a checkpoint of this training"):
        restore(start("bp"), tmp_path / "x")
    wider = PARAMS.model_copy(update={"model": replace(PARAMS.model, width=32)})
    with pytest.raises(InputError, match=r"not a checkpoint of this training: tensor '.*' has the shape ") as caught:
        restore(begin(wider, LOCAL, 0, faces(32, 1)), tmp_path / "x")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("part", ["network/", "averaged/"])
def test_a_checkpoint_with_a_tensor_of_another_name_is_refused_in_one_line(tmp_path: Path, part: str) -> None:
    averaged = PARAMS.model_copy(update={"train": replace(PARAMS.train, average=0.9)})
    save(begin(averaged, LOCAL, 0, faces(32, 1)), tmp_path / "x")
    tensors, about = read(tmp_path / "x")
    name = next(name for name in tensors if name.startswith(part))
    sessions.write({name.replace("/", "/x", 1): tensors.pop(name)} | tensors, about, tmp_path / "x")
    with pytest.raises(
        InputError, match=r"not a checkpoint of this training: .*tensor '.*' is (missing|not part)"
    ) as caught:
        restore(begin(averaged, LOCAL, 0, faces(32, 1)), tmp_path / "x")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text", [None, "{", "{}", "[]", "3", '{"history": []}', '{"history": null, "seconds": [], "best_epoch": 0}']
)
def test_weights_without_a_session_are_no_checkpoint(tmp_path: Path, text: str | None) -> None:
    save(start(), tmp_path / "x")
    save_file(load_file(tmp_path / "x"), tmp_path / "x", None if text is None else {"session": text})
    with pytest.raises(InputError, match="not a checkpoint of this training"):
        restore(start(), tmp_path / "x")


def test_written_weights_come_back_with_their_metadata(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), "b": torch.tensor(3)}
    sessions.write(tensors, {"epoch": "3"}, tmp_path / "deep" / "x")
    found, about = read(tmp_path / "deep" / "x")
    assert same(found, tensors)
    assert about == {"epoch": "3"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x"]


def test_the_identity_of_a_run_changes_with_what_decides_it_and_with_nothing_else(tmp_path: Path) -> None:
    file, other = tmp_path / "train.parquet", tmp_path / "moved.parquet"
    file.write_bytes(b"1")
    other.write_bytes(b"2")

    def own(method: str = "nbp", seed: int = 0, path: Path = file, **fields: object) -> str:
        params = PARAMS.model_copy(update=fields)
        return identity(describe(params, method, seed, faces(32, 1), [path]))

    first = own()
    assert own(profile="other", methods={"nbp": LOCAL}) == first
    assert own(compute=replace(PARAMS.compute, workers=2)) == first
    others = [
        own(seed=1),
        own("bp"),
        own(path=other),
        own(train=replace(PARAMS.train, epochs=4)),
        own(model=replace(PARAMS.model, width=32)),
        own(methods={"nbp": replace(LOCAL, schedule=replace(RATES, update_every=2))}),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_the_identity_of_a_run_is_that_of_its_code_threads_and_device_whatever_the_commit(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes(b"1")

    def own(commit: str, fingerprint: str, threads: int = 1, **others: object) -> str:
        params = PARAMS.model_copy(update={"compute": Compute(device="cpu", threads=threads)})
        code = {"commit": commit, "fingerprint": fingerprint}
        return identity(describe(params, "nbp", 0, faces(32, 1), [file], code) | others)

    first = own("a", "x")
    assert own("b", "x") == first
    others = [own("a", "y"), own("a", "x", threads=2), own("a", "x", device="cuda")]
    assert len({first, *others}) == 1 + len(others)


@pytest.mark.parametrize(
    ("units", "gradients", "count"),
    [(["block1", "block2", "block3"], "stop", 4), ("balanced:2", "stop", 2), ("layer", "stop", 9),
     ("network", "stop", 1), ("layer", "pass", 1)],
)  # fmt: skip
def test_no_more_workers_than_units_and_one_where_gradients_cross(
    units: Cuts, gradients: Literal["stop", "pass"], count: int
) -> None:
    params = PARAMS.model_copy(update={"compute": Compute("cpu", workers=9)})
    assert sessions.workers_of(params, Method(units, gradients=gradients)) == count


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device(Compute(device="auto")) == device(Compute(device="cpu")) == torch.device("cpu")
    with pytest.raises(InputError, match=r"compute\.device: cuda was asked for"):
        device(Compute(device="cuda"))


def test_auto_takes_the_gpu_and_cpu_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device(Compute(device="auto")) == device(Compute(device="cuda")) == torch.device("cuda")
    assert device(Compute(device="cpu")) == torch.device("cpu")
