"""What is generated from the settings of the service and from values.yaml is up to date."""

import importlib.util
import json

import yaml

from tests.chart.rendering import CHART, ROOT
from twinforce_service.settings import Settings

SPEC = importlib.util.spec_from_file_location("chart_generate", ROOT / "helm" / "generate.py")
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


def named(values, schema, prefix=""):
    """Yield the names of values, down to where the chart knows no further ones."""
    for name, value in values.items():
        yield prefix + name
        inside = schema["properties"][name]
        if isinstance(value, dict) and "properties" in inside:
            yield from named(value, inside, f"{prefix}{name}.")


def declared(schema, prefix=""):
    for name, each in schema["properties"].items():
        yield prefix + name
        if "properties" in each:
            yield from declared(each, f"{prefix}{name}.")


def test_generated_files_are_current():
    for path, text in generate.generated().items():
        assert path.read_text() == text, "run python helm/generate.py"


def test_every_value_has_a_default_and_the_schema_knows_it():
    of_an_issuer = {f"tls.issuerRef.{name}" for name in ("name", "kind", "group")}
    known = set(declared(SCHEMA)) - {"global"} - of_an_issuer
    assert set(named(DEFAULTS, SCHEMA)) == known


def test_values_take_the_settings_of_the_service_that_the_chart_does_not_make():
    known = SCHEMA["definitions"]["settings"]["properties"].keys()
    assert known | generate.MADE == Settings.model_fields.keys() - {"config"}
    assert not known & generate.MADE


def test_the_default_time_to_drain_is_that_of_the_service():
    assert DEFAULTS["settings"] == {"drain_timeout": Settings.model_fields["drain_timeout"].default}
