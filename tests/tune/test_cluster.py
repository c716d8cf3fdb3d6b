"""tune/cluster.yaml against the schema that Ray ships."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import jsonschema
import ray
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FILE = YAML(typ="safe").load(ROOT / "tune/cluster.yaml")


def test_the_cluster_file_follows_rays_schema() -> None:
    jsonschema.validate(FILE, json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text()))


def test_every_node_type_is_known_and_workers_fit_below_the_limit() -> None:
    assert FILE["head_node_type"] in FILE["available_node_types"]
    assert sum(one.get("min_workers", 0) for one in FILE["available_node_types"].values()) <= FILE["max_workers"]


def test_nodes_get_the_versions_of_this_environment() -> None:
    text = " ".join(FILE["setup_commands"])
    assert f"ray[tune]=={ray.__version__}" in text
    assert f"torch=={version('torch').partition('+')[0]}" in text
    pins = dict(re.findall(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", text))
    assert pins.keys() > {"numpy", "pandas", "pyarrow", "safetensors", "wandb"}
    assert pins == {name: version(name).partition("+")[0] for name in pins}


def test_every_node_has_rights_of_its_own_since_ray_gives_them_to_the_head_alone() -> None:
    for name, kind in FILE["available_node_types"].items():
        assert kind["node_config"]["IamInstanceProfile"].keys() == {"Name"}, name
