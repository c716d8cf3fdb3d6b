import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import csv_reader
from pipeline.data.csv_reader import Fault, parse_clean, parse_pixels, read_header
from pipeline.process import InputError


def spoil(pixels: str, chance: random.Random) -> str:
    """A text with a few characters changed, put in or taken out, most of them such as pixels have."""
    letters = list(pixels)
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        place = chance.randrange(len(letters))
        letters[place : place + chance.choice([0, 1])] = chance.choice(
            ["", "0", "2", "5", "9", " ", " ", "-", "x", "\t"]
        )
    return "".join(letters)


def test_the_quick_parser_accepts_only_what_the_slow_one_reads_and_reads_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(csv_reader, "PIXELS", 9)
    chance = random.Random(0)
    accepted = 0
    for _ in range(20_000):
        values = [[chance.choice([0, 5, 9, 10, 55, 99, 100, 199, 249, 255]) for _ in range(9)] for _ in range(3)]
        if chance.random() < 0.1:
            values[chance.randrange(3)][chance.randrange(9)] = chance.choice([256, 260, 300, 999, 1000, 25500])
        texts = [spoil(" ".join(map(str, row)), chance).encode() for row in values]
        quick = parse_clean(texts)
        slow = [parse_pixels(row, 1) for row in texts]
        plain = not any(isinstance(row, Fault) for row in slow)
        simple = b"\t" not in b"".join(texts) and not any(len(word) > 3 for row in texts for word in row.split())
        assert (quick is not None) == (plain and simple), texts
        if quick is not None:
            assert (quick == np.stack(slow)).all(), texts
            accepted += 1
    assert 2_000 < accepted < 18_000


def test_every_pixel_value_is_read_as_itself() -> None:
    everything = np.tile(np.arange(256, dtype=np.uint8), 9)
    assert (parse_clean([" ".join(map(str, everything)).encode()]) == everything).all()
    assert (parse_pixels(" ".join(map(str, everything)).encode(), 1) == everything).all()


@pytest.mark.parametrize(
    ("header", "said"),
    [("emotion,pixels,usage", "column usage: expected it spelled Usage"),
     ("Emotion,pixels,Usage", "column Emotion: expected it spelled emotion"),
     ("emotion,Pixels", "column Pixels: expected it spelled pixels")],
)  # fmt: skip
def test_a_column_in_other_capitals_is_told_how_it_is_spelled(header: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_header(header.encode(), Path("faces.csv"))
