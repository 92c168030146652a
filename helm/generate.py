"""Write what follows from other files: the table of values in README.md, and parts of the schema.

Settings of the service are those of `twinforce_service.settings`, without those that other values
of the chart make. Descriptions come from the comments in values.yaml. A test compares the result:

    python helm/generate.py
"""

import json
import re
from pathlib import Path
from typing import Any

from twinforce_service.flags import settings_schema

CHART = Path(__file__).parent / "twinforce"
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"
# Settings that the chart makes from other values, or that a pod needs as they are.
MADE = {
    "rest_port",
    "grpc_port",
    "metrics_port",
    "metrics_host",
    "keys",
    "insecure",
    "tls_certificate",
    "tls_key",
    "tls_client_ca",
    "model",
    "water",
    "engine",
    "compile_cache",
}
_LINE = re.compile(r"^( *)(- )?(?:# ?(?P<comment>.*)|(?P<key>[A-Za-z_]+):(?: .*)?)$")


def main() -> None:
    """Write the files of the chart that are generated."""
    for path, text in generated().items():
        path.write_text(text)


def generated() -> dict[Path, str]:
    """Return the text of each generated file."""
    readme, schema_file = CHART / "README.md", CHART / "values.schema.json"
    schema = json.loads(schema_file.read_text())
    schema["definitions"]["settings"] = service_settings()
    values = CHART / "values.yaml"
    descriptions = comments(values.read_text())
    for name, text in descriptions.items():
        property_of(schema, name)["description"] = text
    text = readme.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    table = table_of(schema, descriptions)
    return {
        readme: f"{before}{BEGIN}\n\n{table}\n\n{END}{after}",
        schema_file: json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
    }


def service_settings() -> dict[str, Any]:
    """Return the schema of the value `settings`."""
    schema = settings_schema()
    for name in MADE:
        del schema["properties"][name]
    for each in schema["properties"].values():
        del each["default"]
    schema["properties"]["drain_timeout"]["maximum"] = 86400  # the pod waits as long
    schema["properties"]["watchdog"]["minimum"] = 1  # nothing else notices an engine that hangs
    schema["required"] = ["drain_timeout"]
    return schema


def comments(text: str) -> dict[str, str]:
    """Return the comment above each value, by its name with dots."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or match[2]:
            above = []
        elif match["comment"] is not None:
            above.append(match["comment"])
        else:
            indent = len(match[1])
            path = [*((i, name) for i, name in path if i < indent), (indent, match["key"])]
            if above:
                found[".".join(name for _, name in path)] = " ".join(above)
            above = []
    return found


def property_of(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the schema of a value, which exists."""
    for part in name.split("."):
        schema = schema["properties"][part]
    return schema


def leaves(schema: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the names of all values that are described, or have no values inside."""
    names = []
    for name, each in schema["properties"].items():
        if "properties" in each and "description" not in each:
            names += leaves(each, f"{prefix}{name}.")
        elif name != "global":  # which Helm itself adds
            names.append(prefix + name)
    return names


def table_of(schema: dict[str, Any], descriptions: dict[str, str]) -> str:
    """Return the table of values, in Markdown."""
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    defaults = default_values((CHART / "values.yaml").read_text())
    rows += [f"| `{name}` | {defaults[name]} | {descriptions[name]} |" for name in leaves(schema)]
    return "\n".join(rows)


def default_values(text: str) -> dict[str, str]:
    """Return the default of each value as it is written, in Markdown, by its name with dots."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or match["key"] is None:
            continue
        if match[2]:  # a list begins below the last name
            found[".".join(name for _, name in path)] = "see values.yaml"
            continue
        indent, written = len(match[1]), line.partition(": ")[2].strip()
        path = [*((i, name) for i, name in path if i < indent), (indent, match["key"])]
        name = ".".join(name for _, name in path)
        found[name] = f"`{written}`" if written not in ("", '""', "[]", "{}") else "none"
        for i in range(1, len(path)):
            parent = ".".join(name for _, name in path[:i])
            found[parent] = "see values.yaml"
    return found


if __name__ == "__main__":
    main()
