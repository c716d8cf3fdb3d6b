"""Pictures of the data show every class, whatever its size and channels."""

import json
from pathlib import Path

import numpy as np
import pytest

from cfpn.schema import Description
from pipeline.page import faces, figures, inputs
from tests.pipeline.page.written import (
    AUDIT,
    build,
    paths,
    write_augmented,
    write_json,
    write_params,
    write_run,
    write_splits,
)

CIFAR = Description(side=32, channels=3, classes=tuple(f"thing {i}" for i in range(10)), drawn=False)


def write_all(root: Path, about: Description) -> None:
    write_splits(root, about)
    write_params(root, source="data/things.csv")
    write_run(root, "nbp", planes=True)
    write_run(root, "bp")


def test_the_rows_of_the_source_show_every_class_once_and_every_split(tmp_path: Path) -> None:
    write_all(tmp_path, Description(drawn=True))
    rows = list(faces.sample_rows(inputs.read_inputs(paths(tmp_path), "")))
    assert [row[2] for row in rows] == [f"{i} {name}" for i, name in enumerate(Description().classes)]
    assert {row[4] for row in rows} == set(inputs.USAGES.values())


def test_a_page_of_small_coloured_things_names_them_and_not_fer2013(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(figures.STYLE[1], "svg.fonttype", "none")  # else words of a picture are drawn as curves
    write_all(tmp_path, CIFAR)
    write_json(tmp_path / "splits/audit.json", AUDIT)
    answers = tmp_path / "evaluate/nbp-0/metrics.json"
    early = [{"exit": 0.4, "accuracy": 0.5, "multiply_adds": 2e6}]
    write_json(answers, json.loads(answers.read_text()) | {"multiply_adds": 8e6, "early": early})
    text = build(tmp_path)
    assert "names the class of a 32×32 colour image: thing 0, thing 1" in text
    assert "Images, learnt with and without back-propagation" in text
    assert "Recall per class" in text and "Published yardsticks" not in text
    pictures = [path.read_text() for path in (tmp_path / "out").glob("*.svg")]
    assert any("accuracy on test, %" in picture for picture in pictures)
    shown = text.split("<h2>Settings")[0] + "".join(pictures)
    assert not [word for word in ("FER2013", "PublicTest", "PrivateTest", "of which Training") if word in shown]
    assert "Cost of an answer" in shown and "have an identical copy in training" in shown
    assert "Learnt on training (" in shown and "In training " in shown
    assert "epoch chosen on validation (" in text and "reported once on test (" in text


@pytest.mark.parametrize(("channels", "shape"), [(1, (48, 48)), (2, (48, 48)), (3, (48, 48, 3))])
def test_three_channels_are_colours_and_others_grey(channels: int, shape: tuple[int, ...]) -> None:
    assert figures.shown(np.zeros((channels, 48, 48), np.uint8)).shape == shape


def test_alt_texts_say_more_than_the_captions(tmp_path: Path) -> None:
    write_all(tmp_path, Description(drawn=True))
    write_augmented(tmp_path / "augmented.parquet", blockwise=False)
    write_json(tmp_path / "splits/audit.json", {})
    page = inputs.read_inputs(paths(tmp_path), "")
    sections = [faces.data_section(page), faces.augmentation_section(page), faces.predictions_section(page)]
    pictures = [block for section in sections for block in section.blocks if block.kind == "picture"]
    assert len({picture.alt for picture in pictures}) == len(pictures) == 6
    assert all(picture.alt and picture.alt != picture.caption for picture in pictures)
    assert "has most, 6" in pictures[1].alt and "fewest, 5 faces" in pictures[1].alt
