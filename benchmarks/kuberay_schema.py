"""Check the Ray resources of a manifest against the schema that KubeRay publishes.

usage: python benchmarks/kuberay_schema.py CRD.yaml [MANIFEST.yaml]

CRD.yaml is `helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml` of github.com/ray-project/kuberay (Apache-2.0, 1.4
MB: it is no part of this repository). Needs `pyyaml` and `jsonschema`, which Ray brings. Fields that the schema does
not name are errors here: Kubernetes would drop them without a word. It does not see what only the operator checks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

MANIFEST = Path(__file__).parents[1] / "docs" / "kuberay" / "rayjob.yaml"
_OPEN = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource")


def closed(schema: Any) -> Any:
    """The schema, with every object closed to fields that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    has_fields = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if has_fields and "additionalProperties" not in schema and not any(schema.get(name) for name in _OPEN):
        made["additionalProperties"] = False
    return made


def errors(definition: dict[str, Any], resource: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a resource, by the definition of its kind."""
    group, _, version = resource["apiVersion"].rpartition("/")
    spec = definition["spec"]
    if (group, resource["kind"]) != (spec["group"], spec["names"]["kind"]):
        raise ValueError(f"the schema is of {spec['names']['kind']}, and the resource is a {resource['kind']}")
    served = {one["name"]: one["schema"]["openAPIV3Schema"] for one in spec["versions"] if one["served"]}
    if version not in served:
        yield f"apiVersion: {version} is not served; there is {', '.join(served)}"
        return
    schema = closed(served[version])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    for error in jsonschema.Draft202012Validator(schema).iter_errors(resource):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"


def main(schema: Path, manifest: Path = MANIFEST) -> int:
    """Print what is wrong. Returns: the exit code."""
    definition = yaml.safe_load(schema.read_text())
    kind = definition["spec"]["names"]["kind"]
    resources = [one for one in yaml.safe_load_all(manifest.read_text()) if one["kind"] == kind]
    found = [line for resource in resources for line in errors(definition, resource)]
    print("\n".join(found) or f"{len(resources)} {kind} of {manifest}: as the schema asks")
    return 1 if found or not resources else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
