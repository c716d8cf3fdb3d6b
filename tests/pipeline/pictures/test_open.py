"""A picture is seen as a viewer shows it, whatever its mode; what is none is told in one line."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.pictures import open as pictures
from pipeline.pictures.open import open_picture, read, shown
from pipeline.process import InputError
from tests.pipeline.pictures.made import HTML, coloured, encoded, grey, turned_jpeg


def opened(data: bytes) -> Image.Image:
    return read(io.BytesIO(data), "it").image


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_a_grey_picture_comes_out_as_it_is(form: str) -> None:
    found = opened(encoded(grey(), form))
    assert found.mode == "L" or form == "GIF"
    np.testing.assert_array_equal(array(found.convert("L")), array(grey()))


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_a_turned_jpeg_is_the_upright_picture(orientation: int) -> None:
    found = opened(turned_jpeg(coloured(96, 64), orientation))
    assert found.size == (96, 64)
    assert np.abs(array(found) - array(coloured(96, 64))).mean() < 2


def test_damaged_exif_data_do_not_cost_the_picture() -> None:
    data = encoded(coloured(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\xff" * 20)
    assert opened(data).size == (96, 96)


def transparent_palette() -> Image.Image:
    image = grey().convert("RGB").quantize(16)
    image.info["transparency"] = image.getpixel((0, 0))
    return image


def grey_alpha(alpha: int) -> Image.Image:
    return Image.merge("LA", [grey(), Image.new("L", (48, 48), alpha)])


def test_what_is_transparent_is_white() -> None:
    image = transparent_palette()
    found = opened(encoded(image, "PNG", transparency=image.info["transparency"]))
    assert found.getpixel((0, 0)) == (255, 255, 255)
    assert (array(opened(encoded(grey_alpha(0), "PNG"))) == 255).all()
    assert (array(opened(encoded(Image.new("RGBA", (30, 30)), "WEBP", lossless=True))) == 255).all()


def test_what_is_opaque_keeps_its_values_under_an_alpha_channel() -> None:
    found = opened(encoded(grey_alpha(255), "PNG"))
    np.testing.assert_array_equal(array(found.convert("L")), array(grey()))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(form: str) -> None:
    deep = Image.fromarray((array(grey()) * 257).astype(np.uint16))
    np.testing.assert_array_equal(array(opened(encoded(deep, form))), array(grey()))


def tiff(values: np.ndarray, bits: int, meaning: int) -> bytes:
    """A grey TIFF of 12 or 16 bits without compression, as the standard says; meaning 0: white is zero."""
    first, second = values.ravel()[::2].astype(int), values.ravel()[1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8)
    data = packed.tobytes() if bits == 12 else values.astype("<u2").tobytes()
    height, width = values.shape
    start = 8 + 2 + 9 * 12 + 4
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: meaning, 273: start, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize(("bits", "meaning"), [(12, 1), (16, 0), (16, 1)])  # Pillow does not know 12 and 0
def test_a_tiff_says_its_range_and_whether_white_is_zero(bits: int, meaning: int) -> None:
    values = np.rint(array(grey()) / 255 * (2**bits - 1))
    stored = values if meaning else 2**bits - 1 - values
    np.testing.assert_array_equal(array(opened(tiff(stored, bits, meaning))), array(grey()))


def test_the_transparent_value_of_sixteen_bits_is_white() -> None:
    values = array(grey()) * 257
    clear = int(values[0, 0])
    found = array(opened(encoded(Image.fromarray(values.astype(np.uint16)), "PNG", transparency=clear)))
    np.testing.assert_array_equal(found, np.where(values == clear, 255, array(grey())))


@pytest.mark.parametrize(
    ("error", "words"), [(MemoryError(), "not enough memory to read"), (ValueError(), "damaged picture: ValueError")]
)
def test_an_error_without_words_is_told_by_its_kind(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(image: Image.Image) -> None:
        raise error

    monkeypatch.setattr(pictures, "turned", failing)
    with pytest.raises(InputError, match=f"^it: {words}"):
        opened(encoded(grey(), "PNG"))


@pytest.mark.parametrize(("kind", "factor"), [(np.int32, 1), (np.int32, 257), (np.float32, 1 / 255), (np.float32, 1)])
def test_wide_numbers_are_scaled_by_the_least_range_that_holds_them(kind: type, factor: float) -> None:
    values = array(grey())
    values[0, 0] = 255
    wide = Image.fromarray((values * factor).astype(kind))
    np.testing.assert_allclose(array(opened(encoded(wide, "TIFF"))), values, atol=1)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="it: damaged picture: values that are not finite"):
        opened(encoded(Image.fromarray(np.full((48, 48), np.nan, np.float32)), "TIFF"))


def test_one_bit_is_black_and_white() -> None:
    assert set(np.unique(array(opened(encoded(grey().convert("1"), "PNG"))))) == {0, 255}


def test_the_colours_of_a_cmyk_jpeg_are_those_of_the_picture() -> None:
    found = opened(encoded(coloured().convert("CMYK"), "JPEG", quality=95))
    assert found.mode == "RGB"
    assert np.abs(array(found) - array(coloured())).mean() < 4


def test_of_several_frames_the_first_is_taken_and_told() -> None:
    data = encoded(grey(), "GIF", save_all=True, append_images=[Image.new("L", (48, 48))])
    found = read(io.BytesIO(data), "it")
    assert found.notes == ("first of 2 frames",)
    np.testing.assert_array_equal(array(found.image.convert("L")), array(grey()))


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (48, 1), (23, 500)])
def test_a_picture_with_too_small_a_side_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"it: {size[0]}x{size[1]} is too small; expected 24 pixels"):
        opened(encoded(Image.new("L", size), "PNG"))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    empty = b"\x00\x00\x00\x00IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + empty


@pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000), (10**9, 10**9)])
def test_a_picture_over_a_hundred_megapixels_is_not_read(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="more than 100 megapixels; not read"):
        opened(png_header(*size))


DAMAGED = {
    "empty": (b"", "empty file"),
    "html": (HTML, "no picture that is read here; it begins with b'<!DOCTYPE html>"),
    "cut off jpeg": (encoded(coloured(), "JPEG")[:900], "damaged picture"),
    "cut off png": (encoded(coloured(), "PNG")[:300], "damaged picture"),
    "header alone": (png_header(48, 48), "damaged picture"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n", "no picture that is read here"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_whole_picture_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    data, message = DAMAGED[name]
    path = tmp_path / "it.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        open_picture(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_no_bytes_are_enough_to_end_the_program() -> None:
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = np.frombuffer(encoded(coloured(48, 48), form), np.uint8)
        for _ in range(15):
            data = whole.copy()
            data[random.integers(8, len(data), 12)] = random.integers(0, 256, 12)
            try:
                image = opened(data.tobytes())
            except InputError as error:
                assert str(error).startswith("it: ")
            else:
                assert image.mode in ("L", "RGB")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        open_picture(tmp_path / "nothing.png")


def test_names_that_would_break_a_line_are_shown_with_escapes() -> None:
    assert shown("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert shown(os.fsdecode(b"\xff.png")) == "\\xff.png"
    assert shown("a\u2028b\x9b\u202etxt") == "a\\u2028b\\x9b\\u202etxt"


@pytest.mark.parametrize(
    "name", ["é 얼굴 😀.png", "写真\u3000一.jpg", "10.00\u202fAM.png", "می\u200cروم.png", "👩\u200d🔬.png"]
)
def test_names_that_people_give_are_shown_as_they_are(name: str) -> None:
    assert shown(name) == name
