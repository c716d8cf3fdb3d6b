"""The Python of docs/predict.md runs as it stands there."""

import re
from pathlib import Path

import pytest

from tests.pipeline.pictures.made import coloured

DOCS = Path(__file__).resolve().parents[3] / "docs/predict.md"


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    coloured().save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(code, found)
    assert found["probabilities"].shape == (1, 7)
    assert found["seen"].shape == (1, 48, 48)
