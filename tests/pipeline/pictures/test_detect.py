"""Boxes of faces, and the pixels that are cut from them."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.pictures import detect
from pipeline.pictures.detect import Box
from tests.pipeline.pictures.made import coloured


def test_boxes_are_in_the_pixels_of_a_picture_that_was_made_smaller_for_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = SimpleNamespace(detectMultiScale=lambda image, **_: [(10, 20, 30, 30)])
    monkeypatch.setattr(detect, "opencv", lambda: SimpleNamespace(equalizeHist=lambda image: image))
    monkeypatch.setattr(detect, "cascade", lambda: search)
    assert detect.find(Image.new("RGB", (2048, 1000))) == [Box(20, 40, 60, 60)]


@pytest.mark.parametrize(("size", "box"), [((48, 96), Box(0, 24, 48, 48)), ((96, 48), Box(24, 0, 48, 48))])
def test_the_middle_of_a_picture_is_the_largest_square_in_it(size: tuple[int, int], box: Box) -> None:
    assert detect.middle(Image.new("L", size)) == box


def test_a_cut_keeps_rows_columns_and_colours_in_their_order() -> None:
    picture = coloured(48, 48)
    found = detect.cut(picture, Box(0, 0, 48, 48), 3)
    np.testing.assert_array_equal(found, np.asarray(picture).transpose(2, 0, 1))
