import math
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cfpn import schema
from cfpn.schema import Description, arrow_schema, column
from pipeline import augment as module
from pipeline import process
from pipeline.augment import BORDERS, TRANSFORMS, augment, main, variants
from pipeline.process import InputError, run

SCHEMA = arrow_schema(Description())
ROOT = Path(module.__file__).parents[1]
Pixels = NDArray[np.uint8]


def faces(count: int, seed: int = 0) -> Pixels:
    """Smooth random pictures (n, 48, 48) with the whole range of greys."""
    rough = np.random.default_rng(seed).standard_normal((count, 48, 48))
    smooth = ndimage.gaussian_filter(rough, (0, 3, 3))
    low, high = (find(smooth, axis=(1, 2), keepdims=True) for find in (np.min, np.max))
    return np.rint((smooth - low) / (high - low) * 255).astype(np.uint8)


def write_split(path: Path, pixels: Pixels, rows: Sequence[int], group: int = 2048) -> Path:
    labels = (np.array(rows) % 7).astype(np.int8)
    values = (pixels.reshape(-1, 2304), labels, np.array(rows, np.int32))
    table = pa.table([column(v, t) for v, t in zip(values, SCHEMA.types, strict=True)], schema=SCHEMA)
    pq.write_table(table, path, row_group_size=group)
    return path


def read(path: Path) -> tuple[Pixels, list[int], list[int], list[str]]:
    """Pixels (n, 7, 48, 48) and the other columns of what the stage writes."""
    table = pq.read_table(path)
    pixels = np.frombuffer(b"".join(table["pixels"].to_pylist()), np.uint8).reshape(-1, 7, 48, 48)
    return pixels, *(table[name].to_pylist() for name in ("label", "row", "transform"))


def one(pixels: Pixels, transform: str, border: str = "border") -> Pixels:
    """A transform of faces (n, 48, 48)."""
    rows = np.arange(len(pixels), dtype=np.int32)
    return variants(pixels, rows, seed=0, border=border, sigma=10.0)[:, TRANSFORMS.index(transform)]


# Rows


def test_each_face_becomes_seven_rows_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [4, 9, 2, 100_000]
    written = augment(write_split(tmp_path / "train.parquet", faces(4), rows), tmp_path / "out.parquet")
    _, labels, sources, transforms = read(tmp_path / "out.parquet")
    assert written == 28
    assert sources == [row for row in rows for _ in range(7)]
    assert labels == [row % 7 for row in sources]
    assert transforms == list(TRANSFORMS) * 4


def test_the_schema_is_that_of_the_split_and_the_name_of_the_transform(tmp_path: Path) -> None:
    augment(write_split(tmp_path / "train.parquet", faces(2), [1, 2]), tmp_path / "out.parquet")
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.names == ["pixels", "label", "row", "transform"]
    assert schema.types[:3] == SCHEMA.types
    assert pa.types.is_dictionary(schema.field("transform").type)


def test_the_library_loads_what_the_stage_writes(tmp_path: Path) -> None:
    pixels = faces(3)
    augment(write_split(tmp_path / "train.parquet", pixels, [1, 2, 3]), tmp_path / "out.parquet")
    loaded, _, rows, _ = schema.read(tmp_path / "out.parquet")
    assert (loaded[::7, 0] == pixels).all()
    assert rows.tolist() == [1] * 7 + [2] * 7 + [3] * 7


def test_the_description_goes_on_to_what_is_written(tmp_path: Path) -> None:
    description = Description(side=32, channels=3, classes=("a", "b"), drawn=True)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    schema.write(tmp_path / "train.parquet", pixels, np.arange(5) % 2, np.arange(5), description)
    assert augment(tmp_path / "train.parquet", tmp_path / "out.parquet") == 35
    found, labels, rows, described = schema.read(tmp_path / "out.parquet")
    assert described == description
    np.testing.assert_array_equal(labels, np.repeat(np.arange(5) % 2, 7))
    np.testing.assert_array_equal(rows, np.repeat(np.arange(5), 7))
    np.testing.assert_array_equal(found[0::7], pixels)
    np.testing.assert_array_equal(found[1::7], pixels[..., ::-1])


@pytest.mark.parametrize("side", [1, 7, 32, 64])
def test_each_colour_of_a_face_is_moved_as_a_grey_face_would_be(side: int) -> None:
    pixels = np.random.default_rng(side).integers(0, 256, (2, 3, side, side), np.uint8)
    rows = np.arange(2, dtype=np.int32)
    whole = variants(pixels, rows, 0, "border", 10.0)
    for colour in range(3):
        alone = variants(pixels[:, colour], rows, 0, "border", 10.0)
        np.testing.assert_array_equal(whole[:, :-1, colour], alone[:, :-1])  # all but the noise, drawn per pixel


# Transforms


def test_the_original_is_unchanged_and_the_flip_is_its_mirror_image() -> None:
    pixels = faces(3)
    assert (one(pixels, "original") == pixels).all()
    assert (one(pixels, "flip") == pixels[:, :, ::-1]).all()


def spot(row: int, column: int) -> Pixels:
    """A black picture with a white spot of 5x5 pixels."""
    picture = np.zeros((1, 48, 48), np.uint8)
    picture[0, row - 2 : row + 3, column - 2 : column + 3] = 255
    return picture


@pytest.mark.parametrize(("transform", "right"), [("clockwise", True), ("counterclockwise", False)])
def test_the_top_of_the_face_goes_right_when_it_turns_clockwise_and_left_otherwise(transform: str, right: bool) -> None:
    row, column_ = ndimage.center_of_mass(one(spot(9, 23), transform)[0].astype(float))
    distance = 14.5 / np.sqrt(2)
    assert row == pytest.approx(23.5 - distance, abs=0.6)
    assert column_ == pytest.approx(23.5 + (distance if right else -distance), abs=0.6)


@pytest.mark.parametrize(("transform", "factor"), [("half", 0.5), ("double", 2.0)])
def test_a_place_moves_to_half_or_double_its_distance_from_the_centre(transform: str, factor: float) -> None:
    row, column_ = ndimage.center_of_mass(one(spot(16, 30), transform, "zeros")[0].astype(float))
    assert row == pytest.approx(23.5 + factor * (16 - 23.5), abs=0.1)
    assert column_ == pytest.approx(23.5 + factor * (30 - 23.5), abs=0.1)


COS = np.cos(np.pi / 4)
MAPS = {  # from a place (row, column) of the result to its source, about the centre
    "clockwise": [[COS, -COS], [COS, COS]],
    "counterclockwise": [[COS, COS], [-COS, COS]],
    "half": [[2, 0], [0, 2]],
    "double": [[0.5, 0], [0, 0.5]],
}


@pytest.mark.parametrize("transform", MAPS)
def test_a_warp_equals_scipys_bilinear_one_with_the_nearest_pixel_outside(transform: str) -> None:
    picture = faces(1, seed=5)
    matrix = np.array(MAPS[transform])
    offset = 23.5 - matrix @ [23.5, 23.5]
    expected = ndimage.affine_transform(picture[0].astype(float), matrix, offset, order=1, mode="nearest")
    assert np.abs(one(picture, transform)[0] - expected).max() < 0.51


def test_half_scale_is_the_mean_of_two_by_two_pixels_in_the_middle_of_the_frame() -> None:
    picture = faces(1, seed=2)
    means = picture.reshape(24, 2, 24, 2).mean(axis=(1, 3))
    assert np.abs(one(picture, "half")[0, 12:36, 12:36] - means).max() <= 0.5


def test_outside_the_face_is_its_nearest_pixel_by_default_black_or_a_reflection() -> None:
    picture = np.full((1, 48, 48), 90, np.uint8)
    picture[:, 10:38, 10:38] = 30
    corners = {border: one(picture, "half", border)[0, [0, 0], [0, 47]].tolist() for border in BORDERS}
    assert corners == {"border": [90, 90], "zeros": [0, 0], "reflection": [30, 30]}


@pytest.mark.parametrize("value", [0, 255])
def test_a_constant_face_stays_constant_but_for_the_noise(value: int) -> None:
    found = variants(np.full((1, 48, 48), value, np.uint8), np.array([1], np.int32), 0, "border", 0.0)
    assert (found == value).all()


# Noise


def noise_of(rows: Sequence[int], seed: int = 0, sigma: float = 10.0, level: int = 128) -> NDArray[np.int64]:
    pixels = np.full((len(rows), 48, 48), level, np.uint8)
    found = variants(pixels, np.array(rows, np.int32), seed, "border", sigma)[:, -1]
    return found.astype(np.int64) - level


@pytest.mark.parametrize("sigma", [3.0, 10.0, 25.0])
def test_noise_has_mean_0_the_stated_deviation_and_the_tails_of_a_gaussian(sigma: float) -> None:
    found = noise_of(range(50), sigma=sigma)
    error = sigma / np.sqrt(found.size)
    assert abs(found.mean()) < 4 * error
    assert found.std() == pytest.approx(np.sqrt(sigma**2 + 1 / 12), abs=4 * error)
    for bound in (0, sigma, 2 * sigma):
        share = math.erf((bound + 0.5) / sigma / math.sqrt(2))
        assert np.mean(np.abs(found) <= bound) == pytest.approx(share, abs=4 * math.sqrt(share / found.size))


def test_noise_differs_between_faces_and_between_pixels_and_seeds() -> None:
    first, second = noise_of([1, 2])
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(first[:, 1:].ravel(), first[:, :-1].ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(first.ravel(), noise_of([1], seed=1).ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(second.ravel(), noise_of([1], seed=1).ravel())[0, 1]) < 0.1


def test_noise_is_clipped_not_wrapped() -> None:
    assert noise_of([1], level=255, sigma=40.0).max() == 0
    assert noise_of([1], level=0, sigma=40.0).min() == 0


def test_noise_of_a_row_does_not_change_when_other_rows_are_dropped() -> None:
    assert (noise_of([3, 5, 8])[[0, 2]] == noise_of([3, 8])).all()


def test_no_noise_at_deviation_0() -> None:
    assert not noise_of([1, 2], sigma=0.0).any()


# The same bytes


def test_batches_threads_and_row_groups_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, rows = faces(23), list(range(1, 24))
    whole = write_split(tmp_path / "whole.parquet", pixels, rows)
    pieces = write_split(tmp_path / "pieces.parquet", pixels, rows, group=5)
    found = []
    threads = torch.get_num_threads()
    for source, batch, count in ((whole, 256, 1), (whole, 7, 2), (whole, 1, 1), (pieces, 256, 2), (pieces, 4, 1)):
        monkeypatch.setattr(module, "BATCH", batch)
        torch.set_num_threads(count)
        augment(source, tmp_path / "out.parquet", seed=3)
        found.append((tmp_path / "out.parquet").read_bytes())
    torch.set_num_threads(threads)
    assert len(set(found)) == 1


def test_another_seed_changes_the_noise_alone(tmp_path: Path) -> None:
    source = write_split(tmp_path / "train.parquet", faces(5), range(1, 6))
    for seed in (0, 1):
        augment(source, tmp_path / f"{seed}.parquet", seed)
    first, second = (read(tmp_path / f"{seed}.parquet")[0] for seed in (0, 1))
    assert (first[:, :-1] == second[:, :-1]).all()
    assert (first[:, -1] != second[:, -1]).any(axis=(1, 2)).all()


def test_no_row_group_of_the_output_holds_the_whole_file(tmp_path: Path) -> None:
    augment(write_split(tmp_path / "train.parquet", faces(1).repeat(1000, 0), range(1000)), tmp_path / "out.parquet")
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(sizes) == 7000
    assert max(sizes) < 4096


# Refusals


def bad(path: Path, case: str) -> Path:
    table = pq.read_table(write_split(path, faces(2), [1, 2]))
    tables = {
        "no pixels": table.drop_columns("pixels"),
        "no row": table.drop_columns("row"),
        "wide labels": table.set_column(1, "label", pa.array([1, 2], pa.int64())),
        "other pixels": table.set_column(0, "pixels", pa.array([b"12", b"34"], pa.binary(2))),
        "empty": table.slice(0, 0),
        "augmented": table.append_column("transform", pa.array(["flip", "flip"])),
    }
    if case == "text":
        path.write_text("emotion,pixels,Usage\n")
    elif case == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        pq.write_table(tables[case], path)
    return path


BAD = {
    "no pixels": "column pixels: found no such column; expected fixed_size_binary[2304]",
    "no row": "column row: found no such column; expected int32",
    "wide labels": "column label: found int64; expected int8",
    "other pixels": "column pixels: found fixed_size_binary[2]",
    "empty": "no rows",
    "augmented": "already augmented",
    "text": "not a Parquet file",
    "cut off": "not a Parquet file",
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_no_training_split_is_refused_and_nothing_written(case: str, tmp_path: Path) -> None:
    source = bad(tmp_path / "train.parquet", case)
    with pytest.raises(InputError) as caught:
        augment(source, tmp_path / "out.parquet")
    assert str(caught.value).startswith(str(source))
    assert BAD[case] in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


def test_the_split_itself_is_not_written(tmp_path: Path) -> None:
    source = write_split(tmp_path / "train.parquet", faces(3), [1, 2, 3])
    before = source.read_bytes()
    with pytest.raises(InputError, match="the faces are read there"):
        augment(source, tmp_path / ".." / tmp_path.name / "train.parquet")
    assert source.read_bytes() == before


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-W", "error", "-m", "pipeline.augment", *map(str, arguments)]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, **options)


def test_the_command_writes_what_the_function_does(tmp_path: Path) -> None:
    source = write_split(tmp_path / "train.parquet", faces(3), [1, 2, 3])
    done = command(source, tmp_path / "a.parquet", "--seed", 5, "--border", "zeros", "--sigma", 4)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    augment(source, tmp_path / "b.parquet", seed=5, border="zeros", sigma=4.0)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_folder_whose_name_is_not_utf_8_is_a_folder_like_another(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve"))
    folder.mkdir()
    source = write_split(tmp_path / "train.parquet", faces(2), [1, 2]).rename(folder / "train.parquet")
    done = command(source, folder / "out.parquet")
    assert done.returncode == 0, done.stderr
    assert schema.read(folder / "out.parquet")[2].tolist() == [1] * 7 + [2] * 7


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def test_a_full_disk_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    source = write_split(tmp_path / "train.parquet", faces(3), [1, 2, 3])
    done = command(source, tmp_path / "out.parquet", preexec_fn=limit_files)
    assert done.returncode == 2
    assert done.stderr == f"error: [Errno 27] File too large: '{tmp_path / 'out.parquet'}'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


def main_ends_with(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["augment", *map(str, arguments)])
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    monkeypatch.setattr(module, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code


@pytest.mark.parametrize(
    "options", [["--seed=-1"], ["--seed=x"], ["--sigma=nan"], ["--sigma=-1"], ["--border=wrap"], []]
)
def test_a_bad_option_or_a_missing_file_ends_with_2_and_a_message(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main_ends_with(monkeypatch, tmp_path / "missing.parquet", tmp_path / "out.parquet", *options)
    assert code == 2
    message = capsys.readouterr().err
    assert "error: " in message
    assert (options[0].partition("=")[0] if options else "missing.parquet") in message


def test_help_shows_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_ends_with(monkeypatch, "--help") == 0
    assert "example: python -m pipeline.augment" in capsys.readouterr().out
