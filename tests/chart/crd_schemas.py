"""Make strict JSON schemas of the definitions of extensions, such as the Gateway API.

They are kept in `schemas/`, so that tests need neither a cluster nor a network:

    python tests/chart/crd_schemas.py "kubernetes-sigs/gateway-api at 4564255ac2c3" FILE.yaml ...
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).parent / "schemas"


def strict(schema: Any) -> Any:
    """Return a schema without descriptions, which refuses fields that it does not know."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        name: {field: strict(each) for field, each in value.items()}
        if name == "properties"
        else strict(value)
        for name, value in schema.items()
        if not name.startswith("x-kubernetes")
        and not (name == "description" and isinstance(value, str))
    }
    if "(?" in str(kept.get("pattern")):  # which Go and Python write differently
        del kept["pattern"]
    if schema.get("x-kubernetes-int-or-string"):
        kept.pop("type", None)
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in kept and "additionalProperties" not in kept and not is_open:
        kept["additionalProperties"] = False
    return kept


def main(origin: str, *files: str) -> None:
    """Write the schema of each version that the definitions serve."""
    for file in files:
        spec = yaml.safe_load(Path(file).read_text())["spec"]
        for version in spec["versions"]:
            if not version["served"]:
                continue
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"].pop("status", None)
            schema["properties"]["metadata"] = {"type": "object"}
            comment = (
                f"From {origin}, {Path(file).name}, Apache-2.0; strict, and without descriptions."
            )
            name = f"{spec['group']}_{version['name']}_{spec['names']['kind']}.json"
            text = json.dumps({"$comment": comment, **schema}, separators=(",", ":"))
            (SCHEMAS / name).write_text(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
