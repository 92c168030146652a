"""What docs/kubernetes.md says to do fits the chart, the image and the repository."""

import re

import pytest
import yaml

from tests.chart.rendering import CHART, ROOT, one, rendered, server_of, unmounted
from tests.docs.pages import blocks_of

pytestmark = pytest.mark.chart
BLOCKS = blocks_of(ROOT / "docs" / "kubernetes.md")
COMMANDS = [each for block in BLOCKS if block.language == "bash" for each in block.commands]
KNOWN = yaml.safe_load((CHART / "values.yaml").read_text()).keys()
VALUES = {
    str(block): values
    for block in BLOCKS
    if block.language == "yaml" and (values := yaml.safe_load(block.code)).keys() <= KNOWN
}
IMAGES = {name: each["image"] for name, each in VALUES.items() if "image" in each}


def objects_of(values):
    """Return the objects of a release with values of the page, which others must join."""
    others = {"tls": {"issuerRef": {"name": "internal"}}}
    return rendered(others | ({} if "keys" in values else {"insecure": True}) | values)


def test_values_of_the_page_are_found():
    others = sum(block.language == "yaml" for block in BLOCKS) - len(VALUES)
    assert others == 1  # a rule of prometheus-adapter
    assert IMAGES


@pytest.mark.parametrize("name", VALUES)
def test_the_chart_takes_the_values_and_mounts_the_files_that_they_name(name):
    objects = objects_of(VALUES[name])
    assert one(objects, "Deployment")
    assert unmounted(objects) == []
    pod, container = server_of(objects)
    assert {each["name"] for each in container["volumeMounts"]} == {
        each["name"] for each in pod["volumes"]
    }


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_the_values_name_was_pushed(name):
    _, container = server_of(objects_of(VALUES[name]))
    pushed = [each.split()[-1] for each in COMMANDS if each.startswith("docker push ")]
    assert container["image"] in pushed


def test_an_image_that_is_pushed_was_built():
    pushed = {each.split()[-1] for each in COMMANDS if each.startswith("docker push ")}
    built = {tag for each in COMMANDS for tag in re.findall(r"docker build -t (\S+)", each)}
    assert pushed <= built


def test_a_command_that_asks_a_service_with_keys_has_a_key_and_files_that_exist():
    (command,) = (each for each in COMMANDS if "twinforce predict " in each)
    variable, file = re.fullmatch(
        r"TWINFORCE_KEY=\$(\w+) twinforce predict (\S+) --url \S+", command
    ).groups()
    assert (ROOT / file).is_file()
    assert any(each.startswith(f"{variable}=$(twinforce-server keys add ") for each in COMMANDS)
