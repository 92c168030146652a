"""Tests of the formats of logs and of request ids."""

import json
import logging

import pytest

from twinforce_service.context import choose_request_id, request_id
from twinforce_service.logs import JSONFormatter, TextFormatter


def record(message, *values, error=None, **extra):
    info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("a.room", logging.WARNING, "file.py", 1, message, values, info)
    vars(made).update(extra)
    return made


@pytest.fixture
def _named():
    token = request_id.set("r-1")
    yield
    request_id.reset(token)


@pytest.mark.usefixtures("_named")
def test_a_json_line_holds_the_message_and_the_extra_fields():
    line = JSONFormatter().format(record("%d atoms", 3, model="water", n_atoms=3))
    assert "\n" not in line
    values = json.loads(line)
    assert values.pop("time").endswith("+00:00")
    assert values == {
        "level": "warning",
        "logger": "a.room",
        "message": "3 atoms",
        "request_id": "r-1",
        "model": "water",
        "n_atoms": 3,
    }


@pytest.mark.usefixtures("_named")
def test_a_text_line_holds_the_message_and_the_extra_fields():
    line = TextFormatter().format(record("it failed", model="water", reason="no luck"))
    assert line.endswith('warning a.room it failed request_id=r-1 model=water reason="no luck"')


@pytest.mark.usefixtures("_named")
def test_the_request_id_of_a_record_wins_over_the_current_one():
    values = json.loads(JSONFormatter().format(record("late", request_id="r-2")))
    assert values["request_id"] == "r-2"


def test_a_record_outside_of_requests_has_no_request_id():
    assert "request_id" not in TextFormatter().format(record("started"))


def test_a_client_cannot_forge_a_line():
    line = TextFormatter().format(record("bad\nname", name_="x\n2026 error forged"))
    assert "\n" not in line
    assert "\n" not in JSONFormatter().format(record("bad\nname"))


@pytest.mark.parametrize("formatter", [JSONFormatter(), TextFormatter()])
def test_a_traceback_is_logged(formatter):
    try:
        raise ValueError("too bad")
    except ValueError as error:
        text = formatter.format(record("it failed", error=error))
    assert "Traceback" in text
    assert "ValueError: too bad" in text


def test_valid_request_ids_are_kept_and_others_replaced():
    assert choose_request_id("run-7.step:3") == "run-7.step:3"
    for wanted in (None, "", "a b", "a\nb", "ä", "x" * 129):
        assert choose_request_id(wanted) not in (wanted, choose_request_id(wanted))
