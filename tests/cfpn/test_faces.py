"""Faces from Parquet, batches, resizing and augmentation, against naive references."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cfpn import faces as data
from cfpn import schema
from cfpn.faces import DEVIATION, EXPRESSIONS, MEAN, Augmentation, Faces, augment, batches, generator, images

SIDE = 48


def faces(number: int, seed: int = 0) -> Faces:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (number, 1, SIDE, SIDE), dtype=torch.uint8, generator=random)
    return Faces(pixels, torch.randint(0, 7, (number,), generator=random), torch.arange(1, number + 1))


def numbered(number: int) -> Faces:
    """Faces whose label and every pixel are their number."""
    numbers = torch.arange(number)
    pixels = numbers.to(torch.uint8)[:, None, None, None].expand(-1, 1, SIDE, SIDE)
    return Faces(pixels, numbers, numbers + 1)


def tensors(found: Faces) -> tuple[Tensor, Tensor, Tensor]:
    return found.pixels, found.labels, found.rows


def order(found: Faces, size: int, seed: int, epoch: int) -> list[int]:
    return torch.cat([labels for _, labels in batches(found, size, seed, epoch)]).tolist()


def table(found: Faces) -> pa.Table:
    flat = pa.array([row.numpy().tobytes() for row in found.pixels], pa.binary(SIDE * SIDE))
    return pa.table({"pixels": flat, "label": found.labels.to(torch.int8).numpy(), "row": found.rows.int().numpy()})


@pytest.mark.parametrize("row_group", [3, 100])
def test_load_returns_what_the_file_holds(tmp_path: Path, row_group: int) -> None:
    expected = faces(10)
    pq.write_table(table(expected), tmp_path / "train.parquet", row_group_size=row_group)
    found = data.load(tmp_path / "train.parquet")
    assert all(map(torch.equal, tensors(found), tensors(expected)))
    assert [tensor.dtype for tensor in tensors(found)] == [torch.uint8, torch.int64, torch.int64]


def test_load_takes_the_augmented_files_extra_column(tmp_path: Path) -> None:
    extra = table(faces(4)).append_column("transform", pa.array(["flip"] * 4).dictionary_encode())
    pq.write_table(extra, tmp_path / "augmented.parquet")
    assert torch.equal(data.load(tmp_path / "augmented.parquet").pixels, faces(4).pixels)


@pytest.mark.parametrize("column", ["pixels", "label", "row"])
def test_load_names_a_missing_column(tmp_path: Path, column: str) -> None:
    pq.write_table(table(faces(2)).drop_columns(column), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=rf"x\.parquet: column {column}: found no such column"):
        data.load(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    "wrong", [pa.array([b"1234"], pa.binary(4)), pa.array(["1 2 3"]), pa.array([[1, 2]]), pa.array([b"12"])], ids=str
)
def test_load_refuses_pixels_of_another_size_or_type(tmp_path: Path, wrong: pa.Array) -> None:
    pq.write_table(table(faces(1)).set_column(0, "pixels", wrong), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: column pixels: found .*; expected fixed_size_binary\[2304\]"):
        data.load(tmp_path / "x.parquet")


@pytest.mark.parametrize(("number", "size"), [(24, 8), (25, 8), (31, 8), (8, 8)])
def test_an_epoch_takes_every_face_at_most_once_in_whole_batches(number: int, size: int) -> None:
    found = order(numbered(number), size, 0, 0)
    assert len(found) == number // size * size
    assert len(set(found)) == len(found)
    assert set(found) <= set(range(number))


def test_pixels_and_labels_stay_together() -> None:
    for pixels, labels in batches(numbered(40), 8, 0, 0):
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, SIDE, SIDE))


def test_the_order_hangs_on_seed_and_epoch_alone() -> None:
    found = {(seed, epoch): order(numbered(64), 8, seed, epoch) for seed in range(4) for epoch in range(4)}
    torch.manual_seed(1)
    assert all(order(numbered(64), 8, *key) == value for key, value in found.items())
    assert len({tuple(value) for value in found.values()}) == 16


def test_over_the_epochs_every_face_is_left_out_now_and_then() -> None:
    left_out = [set(range(10)) - set(order(numbered(10), 8, 0, epoch)) for epoch in range(40)]
    assert set().union(*left_out) == set(range(10))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.batch: 9 is more than the 8 training faces"):
        next(batches(numbered(8), 9, 0, 0))


def test_a_generator_hangs_on_its_key_alone() -> None:
    draws = {key: torch.rand(4, generator=generator(*key)) for key in [(0,), (1,), (0, 1), (1, 1), (2**32 - 1, 3)]}
    assert all(torch.equal(torch.rand(4, generator=generator(*key)), value) for key, value in draws.items())
    assert len({tuple(value.tolist()) for value in draws.values()}) == len(draws)


def test_at_their_own_size_images_are_only_scaled() -> None:
    pixels = faces(3).pixels
    expected = (pixels.numpy().astype(np.float64) / 255 - MEAN) / DEVIATION
    np.testing.assert_allclose(images(pixels, SIDE).numpy(), expected, atol=1e-6)
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(-1, 1, SIDE, SIDE)
    assert images(black_and_white, SIDE)[:, 0, 0, 0].tolist() == [-2.0, 2.0]


def bilinear(picture: np.ndarray, size: int) -> np.ndarray:
    """Half-pixel centres, edge pixels repeated: the textbook formula, one axis after the other."""
    at = np.clip((np.arange(size) + 0.5) * len(picture) / size - 0.5, 0, len(picture) - 1)
    low = np.minimum(np.floor(at).astype(int), len(picture) - 2)
    share = (at - low)[:, None]
    matrix = (1 - share) * np.eye(len(picture))[low] + share * np.eye(len(picture))[low + 1]
    return matrix @ picture @ matrix.T


@pytest.mark.parametrize("size", [16, 47, 96, 224])
def test_other_sizes_are_bilinear(size: int) -> None:
    pixels = faces(2).pixels
    expected = np.stack([bilinear(face, size) for face in (pixels[:, 0].numpy() / 255.0 - MEAN) / DEVIATION])
    found = images(pixels, size)
    assert found.shape == (2, 1, size, size)
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=2e-5)


def smooth(number: int = 1) -> Tensor:
    """Images (n, 1, 48, 48) of blurred noise, so that interpolation errs little."""
    noise = torch.randn(number, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, size=(SIDE, SIDE), mode="bicubic", align_corners=True)


def changed(how: Augmentation, x: Tensor, seed: int = 0) -> Tensor:
    return augment(x, how, generator(seed), SIDE)


def test_no_augmentation_is_the_identity() -> None:
    x = smooth(4)
    assert changed(Augmentation(), x) is x
    assert not Augmentation().moves


@pytest.mark.parametrize("name", ["flip", "shift", "rotation", "scale", "erasing"])
def test_any_one_change_is_an_augmentation(name: str) -> None:
    how = replace(Augmentation(), **{name: True if name == "flip" else 0.9})
    assert not torch.equal(changed(how, smooth(4)), smooth(4))


@pytest.mark.parametrize(
    ("name", "value"),
    [("shift", -1.0), ("rotation", math.nan), ("scale", 1.0), ("scale", -0.1), ("erasing", 1.1), ("erasing", -0.1)],
)
def test_a_change_that_is_none_is_refused_by_name(name: str, value: float) -> None:
    expected = "(0 or more|less than 1|1 or less)"
    with pytest.raises(ValueError, match=rf"augmentation\.{name}: expected {expected}, found {value}"):
        Augmentation(**{name: value})


def test_flipping_mirrors_about_half_of_the_faces_and_leaves_the_others() -> None:
    x = smooth(1).expand(400, -1, -1, -1)
    found = changed(Augmentation(flip=True), x)
    mirrored = (found - x.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    kept = (found - x).abs().amax((1, 2, 3)) < 1e-4
    assert (mirrored ^ kept).all()
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("more", [{"rotation": 30.0}, {"scale": 0.2}, {"rotation": 30.0, "scale": 0.2}], ids=str)
def test_a_mirrored_face_is_turned_and_scaled_as_its_mirror_image_would_be(more: dict[str, float]) -> None:
    x = smooth(1).expand(64, -1, -1, -1)
    found = changed(Augmentation(flip=True, **more), x)  # the flags change no draw
    kept, mirrored = (
        (found - changed(Augmentation(**more), own)).abs().amax((1, 2, 3)) < 1e-4 for own in (x, x.flip(3))
    )
    assert (mirrored ^ kept).all()
    assert 16 < mirrored.sum() < 48


def test_augmentation_hangs_on_its_generator_alone() -> None:
    x, how = smooth(8), Augmentation(flip=True, shift=4, rotation=10, scale=0.1)
    assert torch.equal(changed(how, x, 1), changed(how, x, 1))
    assert not torch.equal(changed(how, x, 1), changed(how, x, 2))


def test_every_face_is_changed_by_itself() -> None:
    found = changed(Augmentation(shift=4, rotation=10), smooth(1).expand(16, -1, -1, -1))
    assert len({round(face.sum().item(), 3) for face in found}) == 16


def dot(x: int, y: int, side: int = SIDE) -> Tensor:
    image = torch.zeros(1, 1, side, side)
    image[0, 0, y - 1 : y + 2, x - 1 : x + 2] = 1.0
    return image


def centres(found: Tensor) -> Tensor:
    """Centres of mass (n, 2) as x, y."""
    mass, at = found.sum((1, 2, 3)), torch.arange(found.shape[-1], dtype=torch.float32)
    return torch.stack([found.sum((1, 2)) @ at / mass, found.sum((1, 3)) @ at / mass], 1)


@pytest.mark.parametrize("side", [48, 96])
def test_shifts_fill_the_square_of_the_stated_width_in_pixels_of_48(side: int) -> None:
    x = dot(side // 2, side // 2, side).expand(600, -1, -1, -1)
    moved = (centres(changed(Augmentation(shift=4), x)) - side // 2) * 48 / side
    assert moved.abs().max() <= 4 + 1e-3
    assert (moved.amax(0) > 3.8).all()
    assert (moved.amin(0) < -3.8).all()
    assert abs(np.corrcoef(moved.T.numpy())[0, 1]) < 0.15


def test_rotations_keep_the_radius_and_fill_the_stated_angles() -> None:
    x = dot(38, 24).expand(600, -1, -1, -1)
    arm = centres(changed(Augmentation(rotation=30), x)) - (SIDE - 1) / 2
    start = torch.tensor([38.0, 24.0]) - (SIDE - 1) / 2
    torch.testing.assert_close(arm.norm(dim=1), start.norm().expand(600), rtol=0.02, atol=0)
    angles = torch.rad2deg(torch.atan2(arm[:, 1], arm[:, 0]) - torch.atan2(start[1], start[0]))
    assert (29 < angles.max() < 31, -31 < angles.min() < -29) == (True, True)


def test_scales_fill_the_stated_share_both_ways() -> None:
    x = dot(38, 24).expand(600, -1, -1, -1)
    arm = centres(changed(Augmentation(scale=0.2), x)) - (SIDE - 1) / 2
    zoom = arm.norm(dim=1) / (torch.tensor([38.0, 24.0]) - (SIDE - 1) / 2).norm()
    assert (1.18 < zoom.max() < 1.21, 0.79 < zoom.min() < 0.82) == (True, True)


def test_the_border_repeats_the_nearest_pixel() -> None:
    x = torch.full((32, 1, SIDE, SIDE), 0.7)
    everything = Augmentation(flip=True, shift=10, rotation=45, scale=0.5)
    torch.testing.assert_close(changed(everything, x), x)


def test_augmented_images_stay_channels_last() -> None:
    x = images(faces(4).pixels, SIDE)
    assert changed(Augmentation(flip=True, shift=2, erasing=1), x).is_contiguous(memory_format=torch.channels_last)


def rectangle(erased: Tensor) -> tuple[slice, slice]:
    """The smallest rectangle that holds all that is true of (h, w)."""
    rows, columns = (torch.nonzero(erased.any(axis))[:, 0].tolist() for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def test_erasing_takes_one_rectangle_from_the_share_of_faces_and_leaves_the_rest() -> None:
    x = torch.full((2000, 3, SIDE, SIDE), 0.7)
    erased = (changed(Augmentation(erasing=0.3), x) != x).all(1)
    assert torch.equal(changed(Augmentation(erasing=0.3), x), x.masked_fill(erased[:, None], 0.0))
    hit = erased[erased.any((1, 2))]
    assert 0.27 < len(hit) / 2000 < 0.33
    assert all(one[rectangle(one)].all() for one in hit)


def test_erased_rectangles_have_the_stated_areas_and_sides_and_lie_everywhere() -> None:
    x = torch.ones(1500, 1, 96, 96)
    erased = changed(Augmentation(erasing=1), x)[:, 0] == 0
    area = erased.float().mean((1, 2))
    assert 0.017 < area.min() < 0.03
    assert 0.30 < area.max() < 0.34
    assert area.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.01)
    ratio = erased.any(2).sum(1) / erased.any(1).sum(1)
    assert 0.27 < ratio.min() < 0.34
    assert 2.9 < ratio.max() < 3.7
    assert ratio.log().mean().abs() < 0.06
    where = F.avg_pool2d(erased.float().mean(0)[None], 8)[0]
    assert where.min() > 0
    torch.testing.assert_close(where, where.flip(0), atol=0.05, rtol=0)
    torch.testing.assert_close(where, where.T, atol=0.05, rtol=0)


def test_erasing_leaves_the_other_changes_as_they_are() -> None:
    x, moved = smooth(64), Augmentation(flip=True, shift=4, rotation=10, scale=0.1)
    plain, found = changed(moved, x), changed(replace(moved, erasing=0.5), x)
    assert torch.equal(found, plain.masked_fill(found == 0, 0.0))
    assert not torch.equal(found, plain)


def test_all_of_the_faces_move_to_a_device_and_stay_what_they_are() -> None:
    still = Faces(*tensors(faces(3)), classes=tuple("abcdefg"), drawn=True)
    moved = still.to(torch.device("meta"))  # a device that every machine has beside the CPU
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert [(t.shape, t.dtype) for t in tensors(moved)] == [(t.shape, t.dtype) for t in tensors(still)]
    assert (moved.classes, moved.drawn) == (still.classes, still.drawn)
    assert {tensor.device.type for tensor in tensors(still)} == {"cpu"}


@pytest.mark.parametrize(("side", "count"), [(16, 256), (48, 256), (64, 144), (96, 64), (224, 11), (2000, 1)])
def test_a_pass_takes_as_many_pixels_as_256_small_faces_have(side: int, count: int) -> None:
    assert data.per_pass(side) == count


def test_the_first_faces_are_those_at_the_beginning_and_zero_means_all() -> None:
    faces = Faces(torch.arange(5 * 48 * 48).view(5, 1, 48, 48).to(torch.uint8), torch.arange(5), torch.arange(5) + 1)
    assert faces.first(2).rows.tolist() == [1, 2]
    assert torch.equal(faces.first(2).pixels, faces.pixels[:2])
    assert len(faces.first(0).labels) == len(faces.first(9).labels) == 5


def test_a_sample_is_drawn_from_all_faces_and_always_the_same() -> None:
    faces = Faces(torch.zeros(700, 1, 1, 1, dtype=torch.uint8), torch.arange(700) // 100, torch.arange(700) + 1)
    few = faces.sample(70)
    assert few.labels.bincount().min() > 0
    assert few.rows.tolist() == sorted(set(few.rows.tolist())) == faces.sample(70).rows.tolist()
    assert torch.equal(few.labels, (few.rows - 1) // 100)
    assert torch.equal(faces.sample(700).rows, faces.rows) and len(faces.sample(900).labels) == 700


def many(count: int, classes: int) -> Faces:
    """Faces of one pixel and of row numbers that skip some, the classes in turn."""
    labels, rows = torch.arange(count) % classes, 2 * torch.arange(count)
    return Faces(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), labels, rows, tuple("abcdefg"[:classes]))


@pytest.mark.parametrize(("share", "classes"), [(0.2, 7), (0.4, 7), (0.9, 2)])
def test_the_share_asked_for_gets_another_label_and_all_others_are_equally_likely(share: float, classes: int) -> None:
    still = many(40_000, classes)
    moved = (data.mislabelled(still, share, 3).labels - still.labels) % classes
    counts = moved.bincount(minlength=classes) / len(still)
    expected = torch.tensor([1 - share] + [share / (classes - 1)] * (classes - 1))
    torch.testing.assert_close(counts, expected, atol=4 * 0.5 / 40_000**0.5, rtol=0)


def test_wrong_labels_belong_to_rows_and_change_with_the_seed_alone() -> None:
    still = many(500, 7)
    found = data.mislabelled(still, 0.4, 0)
    order = torch.randperm(500, generator=generator(1)).repeat(2)  # two faces of each row, elsewhere in the file
    again = data.mislabelled(Faces(still.pixels[order], still.labels[order], still.rows[order]), 0.4, 0)
    assert torch.equal(again.labels, found.labels[order])
    for count in (1, 7, 20, 499):  # as `train.limit` leaves out the others
        assert torch.equal(data.mislabelled(still.first(count), 0.4, 0).labels, found.labels[:count])
    assert not torch.equal(data.mislabelled(still, 0.4, 1).labels, found.labels)
    assert torch.equal(found.pixels, still.pixels) and torch.equal(found.rows, still.rows)
    few = ((data.mislabelled(still, 0.2, 0).labels != still.labels) <= (found.labels != still.labels)).all()
    assert few, "a face with a wrong label has one at every larger share"


def test_a_share_of_zero_and_no_faces_change_nothing() -> None:
    still = many(5, 7)
    assert data.mislabelled(still, 0.0, 0) is still
    assert len(data.mislabelled(many(0, 7), 0.5, 0)) == 0


COLOUR = schema.Description(side=32, channels=3, classes=tuple("abcdefghij"), drawn=True)


def test_load_keeps_what_the_file_says_of_the_data_set(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    schema.write(tmp_path / "x.parquet", pixels, np.arange(5), np.arange(5) + 1, COLOUR)
    found = data.load(tmp_path / "x.parquet")
    assert torch.equal(found.pixels, torch.from_numpy(pixels))
    assert (found.classes, found.drawn, found.side, len(found)) == (COLOUR.classes, True, 32, 5)
    for other in (found.first(2), found.to(torch.device("cpu"))):
        assert (other.classes, other.drawn, other.side) == (COLOUR.classes, True, 32)


def test_a_file_without_a_description_holds_photographs_of_the_seven_expressions(tmp_path: Path) -> None:
    pq.write_table(table(faces(2)), tmp_path / "x.parquet")
    assert (data.load(tmp_path / "x.parquet").classes, data.load(tmp_path / "x.parquet").drawn) == (EXPRESSIONS, False)


@pytest.mark.parametrize("size", [32, 48])
def test_every_channel_is_an_image_of_its_own(size: int) -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator(0))
    found = images(pixels, size)
    assert found.shape == (2, 3, size, size)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for channel in range(3):
        torch.testing.assert_close(found[:, channel], images(pixels[:, channel : channel + 1], size)[:, 0])


@pytest.mark.parametrize("shape", [(40, 48), (48, 40), (24, 96)])
def test_faces_that_are_not_square_become_square_images(shape: tuple[int, int]) -> None:
    pixels = torch.full((2, 1, *shape), 255, dtype=torch.uint8)
    assert torch.equal(images(pixels, 48), torch.full((2, 1, 48, 48), 2.0))


def test_shifts_are_in_pixels_of_the_stored_side() -> None:
    x = dot(48, 48, 96).expand(600, -1, -1, -1)
    moved = centres(augment(x, Augmentation(shift=4), generator(0), 32)) - 48
    assert 3.8 * 96 / 32 < moved.abs().max() <= 4 * 96 / 32 + 1e-3
