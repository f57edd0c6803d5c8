"""The KubeRay manifest: its run can begin, its parts fit together, and it is as KubeRay's schema asks."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agentrl.cli.train import command
from agentrl.config import load_config
from agentrl.training.plan import TrainConfig

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "docs" / "kuberay" / "rayjob.yaml"
SCHEMA = "AGENTRL_KUBERAY_SCHEMA"
"""Variable with the path of KubeRay's `ray.io_rayjobs.yaml`, which is too large to be kept here."""


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return {part["kind"]: part for part in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture
def config(parts: dict[str, Any], tmp_path: Path) -> TrainConfig:
    path = tmp_path / "run.toml"
    path.write_text(parts["ConfigMap"]["data"]["run.toml"])
    return load_config(TrainConfig, path)


def test_its_command_parses(parts: dict[str, Any]) -> None:
    program, name, *words = parts["RayJob"]["spec"]["entrypoint"].split()
    assert (program, name) == ("agentrl", "train")
    parsed = command.make_context("train", words)
    assert parsed.params["go_on"], "a run whose head was lost goes on"
    assert parsed.params["out"].is_relative_to("/runs")


def test_its_workers_have_the_cores_that_its_samplers_ask_for(parts: dict[str, Any], config: TrainConfig) -> None:
    cluster = parts["RayJob"]["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cores = group["replicas"] * int(container["resources"]["limits"]["cpu"])
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert (config.scale.engine, config.scale.address) == ("ray", "auto")
    assert config.scale.samplers * config.scale.threads <= cores


def test_its_mounts_name_volumes_and_its_volumes_what_it_makes(parts: dict[str, Any]) -> None:
    pod = parts["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    claim, files = volumes["runs"]["persistentVolumeClaim"], volumes["config"]["configMap"]
    assert claim["claimName"] == parts["PersistentVolumeClaim"]["metadata"]["name"]
    assert files["name"] == parts["ConfigMap"]["metadata"]["name"]


@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmarks/kuberay_schema.py`, and KubeRay's definition."""
    yaml, _ = pytest.importorskip("yaml"), pytest.importorskip("jsonschema")
    if not os.environ.get(SCHEMA):
        pytest.skip(f"set {SCHEMA} to KubeRay's ray.io_rayjobs.yaml")
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    return importlib.import_module("kuberay_schema"), yaml.safe_load(Path(os.environ[SCHEMA]).read_text())


def test_it_is_as_the_schema_asks_and_a_wrong_field_is_found(parts: dict[str, Any], schema: Any) -> None:
    module, definition = schema
    job = parts["RayJob"]
    assert list(module.errors(definition, job)) == []
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 2
    job["spec"]["backoffLimit"] = "three"
    found = sorted(module.errors(definition, job))
    assert len(found) == 2
    assert found[0].startswith("spec.backoffLimit: 'three' is not of type 'integer'")
    assert "'replica' was unexpected" in found[1]
