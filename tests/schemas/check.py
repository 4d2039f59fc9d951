#!/usr/bin/env python3
"""Check Kubernetes manifests against the schemas in this folder, offline.

usage: check.py FILE.yaml...      (needs PyYAML and jsonschema >= 4.18)

Core kinds come from kubernetes/*.json, custom resources from the other folders. Unknown fields
are errors, and so is a kind without a schema. CEL rules (x-kubernetes-validations) are not run.
"""
import json
import pathlib
import sys

import yaml
from jsonschema import Draft202012Validator

HERE = pathlib.Path(__file__).resolve().parent


def strict(node):
    """Turn a structural CRD schema into a strict JSON schema, in place."""
    if isinstance(node, list):
        for item in node:
            strict(item)
    elif isinstance(node, dict):
        if node.pop("x-kubernetes-int-or-string", False):
            node.pop("type", None)
            node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        if node.pop("nullable", False) and "type" in node:
            node["type"] = [node["type"], "null"]
        props = node.get("properties")
        if (isinstance(props, dict) and node.get("type") == "object"
                and not node.get("x-kubernetes-preserve-unknown-fields")):
            node.setdefault("additionalProperties", False)
        for key, value in node.items():
            if key in ("properties", "definitions") and isinstance(value, dict):
                for sub in value.values():
                    strict(sub)
            elif key not in ("enum", "default", "example"):
                strict(value)
    return node


def load():
    table = {}
    for path in HERE.glob("*/*.json"):
        bundle = json.loads(path.read_text())
        for gvk, ref in bundle.get("x-kinds", {}).items():
            table[gvk] = Draft202012Validator({"$ref": ref, "$defs": bundle["$defs"]})
        if bundle.get("kind") != "CustomResourceDefinition":
            continue
        spec = bundle["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            for name in ("apiVersion", "kind"):
                schema.setdefault("properties", {}).setdefault(name, {"type": "string"})
            schema["properties"]["metadata"] = {"type": "object"}
            schema["additionalProperties"] = False
            gvk = f"{spec['group']}/{version['name']}/{spec['names']['kind']}"
            table[gvk] = Draft202012Validator(schema)
    return table


def main(files):
    table, bad = load(), 0
    for file in files:
        for doc in yaml.safe_load_all(pathlib.Path(file).read_text()):
            if not doc:
                continue
            gvk = f"{doc.get('apiVersion')}/{doc.get('kind')}"
            label = f"{file}: {gvk} {doc.get('metadata', {}).get('name')}"
            if gvk not in table:
                print(f"ERROR {label}: no schema for this kind")
                bad += 1
                continue
            errors = sorted(table[gvk].iter_errors(doc), key=lambda e: list(e.path))
            for err in errors:
                print(f"ERROR {label}: {'/'.join(map(str, err.path)) or '.'}: {err.message}")
            bad += bool(errors)
            if not errors:
                print(f"ok    {label}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
