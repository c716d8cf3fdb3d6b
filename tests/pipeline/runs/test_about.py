"""Which source files decide whether a training is made anew."""

from pathlib import Path

import pytest

from pipeline.runs import about


def test_the_code_behind_a_training_is_all_of_cfpn_at_any_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["cfpn/a.py", "cfpn/mine/deep/b.py", "pipeline/networks.py", "pipeline/runs/session.py"]
    for name in [*names, "pipeline/report.py", "cfpn/weights/bp.safetensors"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(about, "ROOT", tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in about.code_files()] == names
    before = about.code_now()["fingerprint"]
    (tmp_path / "cfpn/mine/deep/b.py").write_text("changed")
    assert about.code_now()["fingerprint"] != before
