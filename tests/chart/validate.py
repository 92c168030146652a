"""Compare objects with the schemas of several versions of Kubernetes.

It runs in the environment of `make chart`. Objects of extensions are compared with the schemas
that `crd_schemas.py` made of their definitions. Each argument is a version, a colon and a file.
"""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

SCHEMAS = Path(__file__).parent / "schemas"


@cache
def schema_of(kind: str) -> Any:
    """Return the schema of a kind of an extension; None for a kind of Kubernetes itself."""
    file = SCHEMAS / f"{kind}.json"
    return json.loads(file.read_text()) if file.exists() else None


def problem_of(described: dict[str, Any], version: str) -> str:
    """Return the problem of an object; empty if it has none."""
    kind = f"{described['apiVersion'].replace('/', '_')}_{described['kind']}"
    try:
        if (schema := schema_of(kind)) is not None:
            jsonschema.Draft7Validator(schema).validate(described)
        else:
            kubernetes_validate.validate(described, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return f"{kind}: {'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"{kind}: expected a kind that Kubernetes {version} knows"
    return ""


def main() -> int:
    """Print the problems of all files; return 1 if there are any."""
    n_problems = 0
    for argument in sys.argv[1:]:
        version, _, file = argument.partition(":")
        for described in yaml.safe_load_all(Path(file).read_text()):
            if described and (problem := problem_of(described, version)):
                n_problems += 1
                sys.stdout.write(f"{Path(file).name}, Kubernetes {version}: {problem}\n")
    return min(n_problems, 1)


if __name__ == "__main__":
    sys.exit(main())
