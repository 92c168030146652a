import dataclasses

import pytest

from twinforce_proto import OUTPUTS, UNITS, InvalidRequestError, Prediction, parse_outputs
from twinforce_proto.outputs import AUTOGRAD_OUTPUTS, needs_autograd


def test_hybrid_means_the_energy_and_both_forces():
    both = {"energy", "conservative_forces", "direct_forces"}
    assert parse_outputs("hybrid") == both
    assert parse_outputs(["hybrid", "direct_stress"]) == both | {"direct_stress"}


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_output_name_is_parsed_as_itself(name):
    assert parse_outputs([name]) == {name}
    assert parse_outputs(name) == {name}


@pytest.mark.parametrize(
    "names", [["forces"], ["energy", "stress"], [""], "nonsense", [3], [["energy"]]]
)
def test_an_unknown_output_is_refused_with_the_valid_choices(names):
    with pytest.raises(InvalidRequestError) as raised:
        parse_outputs(names)
    assert raised.value.field == "outputs"
    assert "expected some of energy, atom_energies" in str(raised.value)
    assert "hybrid, got" in str(raised.value)


def test_an_empty_list_of_outputs_is_refused():
    with pytest.raises(InvalidRequestError, match=r"^outputs: expected .*, got none$"):
        parse_outputs([])


def test_a_backward_pass_is_needed_only_for_derivatives_of_the_energy():
    assert needs_autograd(parse_outputs("hybrid"))
    assert needs_autograd({"conservative_stress"})
    assert not needs_autograd(set(OUTPUTS) - AUTOGRAD_OUTPUTS)


def test_each_output_has_a_unit_and_a_place_in_a_prediction():
    fields = [field.name for field in dataclasses.fields(Prediction)]
    assert tuple(UNITS) == OUTPUTS == tuple(fields[: len(OUTPUTS)])
