import json
import pickle
import re
from http import HTTPStatus

import grpc
import pytest

from twinforce_proto import errors
from twinforce_proto.codec import problem
from twinforce_proto.errors import (
    ERRORS,
    InvalidRequestError,
    InvalidSystemError,
    OverloadedError,
    ServiceError,
    UnavailableError,
    UnsupportedElementError,
)

every_error = pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)


def descendants(kind):
    return {kind}.union(*map(descendants, kind.__subclasses__()))


def full(kind):
    return kind("positions: too far", system_index=3, field="positions", retry_after=0.5)


def test_the_list_of_errors_is_complete():
    """The client has errors of its own, which are kinds of these and never on the wire."""
    kinds = {kind for kind in descendants(ServiceError) if kind.__module__ == errors.__name__}
    assert set(ERRORS.values()) == kinds


def test_the_error_tree_in_the_docstring_matches_the_classes():
    lines = re.findall(r"^    ( *)(\w+) +(\d+) +(\w+)", errors.__doc__, flags=re.MULTILINE)
    assert {name for _, name, _, _ in lines} == set(ERRORS)
    parents: dict[int, str] = {}
    for indent, name, http_status, grpc_status in lines:
        kind = ERRORS[name]
        assert (str(kind.http_status), kind.grpc_status) == (http_status, grpc_status)
        parents[len(indent)] = name
        if indent:
            assert kind.__base__.__name__ == parents[len(indent) - 2]


@every_error
def test_each_error_has_a_valid_http_and_grpc_status(kind):
    client_closed_request = 499  # nginx's; not in the standard
    assert kind.http_status in {*HTTPStatus, client_closed_request}
    assert grpc.StatusCode[kind.grpc_status] is not grpc.StatusCode.OK


@every_error
def test_an_error_survives_its_dictionary(kind):
    values = json.loads(json.dumps(full(kind).to_dict()))
    error = ServiceError.from_dict(values)
    assert type(error) is kind
    assert error.to_dict() == values


@every_error
def test_an_error_survives_problem_details(kind):
    values = json.loads(json.dumps(problem.error_to_problem(full(kind))))
    assert values["type"] == f"urn:twinforce:error:{kind.__name__}"
    assert values["status"] == kind.http_status
    assert values["detail"] == "systems[3]: positions: too far"
    assert values["title"]
    error = problem.error_from_problem(values, kind.http_status)
    assert type(error) is kind
    assert error.to_dict() == full(kind).to_dict()


@every_error
def test_an_error_survives_pickling(kind):
    error = pickle.loads(pickle.dumps(full(kind)))
    assert type(error) is kind
    assert str(error) == str(full(kind))
    assert error.to_dict() == full(kind).to_dict()


def test_the_message_of_an_error_names_its_system():
    error = UnsupportedElementError("atomic_numbers: no copper", field="atomic_numbers")
    placed = error.at(3)
    assert str(error) == "atomic_numbers: no copper"
    assert str(placed) == "systems[3]: atomic_numbers: no copper"
    assert type(placed) is UnsupportedElementError
    assert (placed.system_index, placed.field) == (3, "atomic_numbers")
    assert error.system_index is None


def test_problem_details_leave_out_members_without_a_value():
    values = problem.error_to_problem(OverloadedError("full"))
    assert values.keys() == {"type", "title", "status", "detail"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (422, InvalidRequestError),
        (429, OverloadedError),
        (503, UnavailableError),
        (502, ServiceError),
        (500, ServiceError),
    ],
)
def test_a_reply_without_an_error_type_is_classified_by_its_http_status(status, kind):
    error = problem.error_from_problem({"detail": "who knows"}, status)
    assert type(error) is kind
    assert str(error) == "who knows"


def test_an_error_of_an_unknown_type_becomes_a_service_error():
    error = ServiceError.from_dict({"type": "FromTheFutureError", "message": "hello"})
    assert type(error) is ServiceError
    assert str(error) == "hello"


def test_an_unsupported_element_error_is_an_invalid_system_error():
    assert issubclass(UnsupportedElementError, InvalidSystemError)
