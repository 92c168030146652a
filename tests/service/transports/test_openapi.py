"""Tests that the OpenAPI description says what the REST API answers."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.clients.serving import serve
from tests.service.callers.making import add_key
from tests.service.transports.rest_bodies import PROTOBUF
from twinforce_proto import FORCES, OUTPUTS

PATIENCE = 120.0
RULES = Path(__file__).with_name("spectral.yaml")


@pytest.fixture(scope="module")
def shared():
    with (
        serve(engine="thread") as server,
        httpx2.Client(base_url=server.rest_url, timeout=60.0) as rest,
    ):
        yield rest


@pytest.fixture(scope="module")
def docs(shared):
    return shared.get("/openapi.json").json()


def operations(docs):
    return [
        (method, path, operation)
        for path, methods in docs["paths"].items()
        for method, operation in methods.items()
    ]


def schema_of(docs, reference):
    return docs["components"]["schemas"][reference["$ref"].rpartition("/")[2]]


def check(docs, schema, value):
    """Check a value against the parts of a schema that ours have."""
    if "$ref" in schema:
        schema = schema_of(docs, schema)
    if "anyOf" in schema:
        if value is None:
            assert {"type": "null"} in schema["anyOf"]
            return
        (schema,) = (each for each in schema["anyOf"] if each != {"type": "null"})
        check(docs, schema, value)
    elif schema.get("type") == "object" and "properties" in schema:
        assert set(schema.get("required", ())) <= value.keys() <= schema["properties"].keys()
        for name, each in value.items():
            check(docs, schema["properties"][name], each)
    elif schema.get("type") == "array":
        for index, each in enumerate(value):
            items = schema["prefixItems"][index] if "prefixItems" in schema else schema["items"]
            check(docs, items, each)
    elif schema.get("type") in KINDS:
        assert isinstance(value, KINDS[schema["type"]])


KINDS = {"number": int | float, "integer": int, "string": str, "boolean": bool, "object": dict}


def test_each_reply_is_as_described(docs, shared):
    n_replies = 0
    for method, path, operation in operations(docs):
        if path == "/metrics":
            continue
        url = path.format(model="lj", watch_id="x")
        (kind, content), *_ = operation["responses"]["200"]["content"].items()
        examples = [{"value": None}]
        if method == "post":
            examples = operation["requestBody"]["content"]["application/json"]["examples"].values()
        for example in examples:
            reply = shared.request(method, url, json=example["value"])
            assert reply.status_code == 200
            assert reply.headers["content-type"] == kind
            for line in reply.text.splitlines():
                check(docs, content.get("schema") or content["itemSchema"], json.loads(line))
                n_replies += 1
    assert n_replies > 15


def test_each_example_is_as_described(docs):
    for _, _, operation in operations(docs):
        for answer in operation["responses"].values():
            for content in answer["content"].values():
                if "example" in content:
                    schema = content.get("schema") or content["itemSchema"]
                    check(docs, schema, content["example"])


def test_each_path_lists_what_may_come_before_it(docs):
    for _, path, operation in operations(docs):
        statuses = operation["responses"].keys()
        assert ({"401", "403", "421"} <= statuses) == (path != "/health/live")
        assert all(
            "HTTPValidationError" not in str(each) for each in operation["responses"].items()
        )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/csv"}, 415),
        ({"x-timeout-seconds": "0"}, 422),
        ({"x-urgency": "8"}, 422),
        ({"x-urgency": "-1"}, 422),
    ],
)
def test_refusals_are_described(docs, shared, headers, status):
    url = "/v1/models/{model}/predict"
    operation = docs["paths"][url]["post"]
    (example, *_) = operation["requestBody"]["content"]["application/json"]["examples"].values()
    given = {"content-type": "application/json"} | headers
    body = json.dumps(example["value"])
    reply = shared.post(url.format(model="lj"), content=body, headers=given)
    assert reply.status_code == status
    assert str(status) in operation["responses"]
    bounds = {each["name"].lower(): each["schema"] for each in operation["parameters"]}
    assert bounds["x-timeout-seconds"]["exclusiveMinimum"] == 0
    assert (bounds["x-urgency"]["minimum"], bounds["x-urgency"]["maximum"]) == (0, 7)


def test_names_and_numbers_are_bounded(docs):
    schemas = docs["components"]["schemas"]
    outputs = schemas["PredictBody"]["properties"]["outputs"]["anyOf"][0]["items"]
    assert outputs["enum"] == [*OUTPUTS, "hybrid"]
    assert schemas["NonconservativityBody"]["properties"]["output"]["enum"] == [*FORCES]
    elements = schemas["SystemBody"]["properties"]["atomic_numbers"]["items"]
    assert (elements["minimum"], elements["maximum"]) == (1, 118)


def test_a_key_is_needed_only_if_there_are_keys(docs, tmp_path):
    assert docs["paths"]["/v1/models"]["get"]["security"] == [{}, {"key": []}]
    key = add_key(tmp_path / "keys.json", "alice")
    with serve(engine="thread", keys=str(tmp_path / "keys.json")) as server:
        headers = {"authorization": f"Bearer {key}"}
        theirs = httpx2.get(f"{server.rest_url}/openapi.json", headers=headers).json()
    assert theirs["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "security" not in theirs["paths"]["/health/live"]["get"]
    assert theirs["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert PROTOBUF in theirs["paths"]["/v1/models"]["get"]["responses"]["200"]["content"]


def test_the_description_says_whose_it_is_and_where(docs):
    assert docs["info"]["license"]["identifier"] == "BSD-3-Clause"
    assert docs["info"]["contact"]["name"]
    assert [each["url"] for each in docs["servers"]] == ["/"]
    tags = {tag for _, _, operation in operations(docs) for tag in operation["tags"]}
    assert tags == {each["name"] for each in docs["tags"] if each["description"]}


def test_each_call_describes_its_timeout(docs):
    n_calls = 0
    for _, path, operation in operations(docs):
        if path.startswith("/v1/models/{model}/") or path.endswith("/infer"):
            headers = {each["name"]: each["schema"] for each in operation["parameters"]}
            assert headers["X-Timeout-Seconds"] == {"type": "number", "exclusiveMinimum": 0}
            n_calls += 1
    assert n_calls == 8


def test_each_operation_says_whether_it_needs_a_key(docs):
    for _, path, operation in operations(docs):
        expected = [] if path == "/health/live" else [{}, {"key": []}]
        assert operation.get("security", docs["security"]) == expected


@pytest.fixture
def plain():
    """A service without the page for browsers."""
    with serve(page=False) as server, httpx2.Client(base_url=server.rest_url, timeout=60) as http:
        yield http


@pytest.mark.parametrize("kind", ["shared", "plain"])
def test_the_page_needs_no_other_host(kind, request):
    rest = request.getfixturevalue(kind)
    page = rest.get("/docs", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert not re.findall(r"(?:https?:)?//\w[^\s'\"]*", page.text)
    parts = re.findall(r"(?:src|href)=[\"']([^\"']+)", page.text)
    assert {part.rpartition(".")[2] for part in parts} >= {"js", "css"}
    shown = [rest.get(str(page.url.join(part)), headers=page.request.headers) for part in parts]
    assert all(reply.status_code == 200 and reply.content for reply in shown)
    texts = [page.text, *(each.text for each in shown if len(each.content) < 10_000)]
    assert any(re.search('validatorUrl"?: null', text) for text in texts)


def linted(docs, folder, name, *arguments):
    """Return the exit code of a program that looks for flaws of descriptions, and its words."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed (make lint-api)")
    file = folder / "openapi.json"
    file.write_text(json.dumps(docs))
    command = [program, "lint", str(file), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    return ran.returncode, ran.stdout + ran.stderr


def test_redocly_finds_no_flaw(docs, tmp_path):
    code, words = linted(docs, tmp_path, "redocly", "--extends=recommended", "--max-problems=9")
    assert code == 0, words
    assert not re.search(r"\d+ (error|warning)", words), words


def test_spectral_finds_no_flaw(docs, tmp_path):
    options = ["--ruleset", str(RULES), "--fail-severity", "hint"]
    code, words = linted(docs, tmp_path, "spectral", *options)
    assert code == 0, words
