"""The workflow file and the devcontainer follow their schemas and run nothing that .ci/run does not run."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW, CONTAINER = ROOT / ".github/workflows/ci.yml", ROOT / ".devcontainer/devcontainer.json"
COMMANDS = re.findall(r"^(make \w+)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
# Of a devcontainer made from an image (containers.dev/implementors/json_reference): what it has, and of which type.
FIELDS = {
    "name": str, "image": str, "hostRequirements": dict, "postCreateCommand": str, "customizations": dict,
    "features": dict, "forwardPorts": list, "containerEnv": dict, "remoteUser": str, "mounts": list,
}  # fmt: skip


def container() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(CONTAINER.read_text())
    return content


@pytest.mark.parametrize(("schema", "file"), [("github-workflows", WORKFLOW), ("citation-file-format", "CITATION.cff")])
def test_a_file_that_a_host_reads_follows_its_schema(schema: str, file: Path | str) -> None:
    options = ["--builtin-schema", f"vendor.{schema}", "--force-filetype", "yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *options, file], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_file_runs_what_ci_runs_and_nothing_else() -> None:
    jobs = YAML(typ="safe").load(WORKFLOW)["jobs"].values()
    assert [step["run"] for job in jobs for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_the_devcontainer_has_fields_of_its_schema_and_runs_a_command_of_ci() -> None:
    found = container()
    assert {name: type(value) for name, value in found.items()} == {name: FIELDS.get(name) for name in found}
    assert found["postCreateCommand"] in COMMANDS
    assert found["hostRequirements"].keys() <= {"cpus", "memory", "storage", "gpu"}
    assert all(re.fullmatch(r"\d+[tgmk]b", found["hostRequirements"][name]) for name in ("memory", "storage"))


def test_the_devcontainer_brings_the_editor_extension_of_dvc_and_the_pythons_of_the_project() -> None:
    extensions = container()["customizations"]["vscode"]["extensions"]
    assert "iterative.dvc" in extensions
    assert all(re.fullmatch(r"[\w-]+\.[\w-]+", one) for one in extensions)
    (version,) = re.findall(r"python:(\d+\.\d+)", container()["image"])
    assert f"python{version}" in (ROOT / "Makefile").read_text()
    assert version in WORKFLOW.read_text()
