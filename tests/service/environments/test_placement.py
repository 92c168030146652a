"""Tests of the decision which environment serves which model."""

import pytest

from twinforce_proto import ModelLoadError
from twinforce_service.environments.placement import PlacedModel, SplitParts, place

OTHER = PlacedModel("other", "b")


def test_models_are_placed_by_their_option_which_the_engine_does_not_see():
    placement = place(
        {
            "a": "water",
            "b": "orb:x.ckpt#arch=orb-v2&env=other&sha256=00",
            "c": "toy:harmonic#env=other",
            "d": "water#env=main",
        }
    )
    assert placement.specs == {
        "main": {"a": "water", "d": "water"},
        "other": {"b": "orb:x.ckpt#arch=orb-v2&sha256=00", "c": "toy:harmonic"},
    }
    assert placement.models["b"] == OTHER
    assert list(placement.models) == ["a", "b", "c", "d"]


def test_a_hybrid_whose_parts_share_an_environment_lives_there():
    spec = "conservative:mace:small#env=other&variant=x+direct:water#env=other"
    placement = place({"b": spec})
    assert placement.specs == {"other": {"b": "conservative:mace:small#variant=x+direct:water"}}
    assert placement.models == {"b": OTHER}
    assert place({"a": "conservative:x+direct:y"}).specs == {
        "main": {"a": "conservative:x+direct:y"}
    }


def test_a_hybrid_of_two_environments_has_two_places():
    placement = place({"fast": "conservative:mace:small#env=other+direct:water"})
    assert placement.specs == {
        "other": {"fast#conservative": "mace:small"},
        "main": {"fast#direct": "water"},
    }
    assert placement.models == {
        "fast": SplitParts(
            PlacedModel("other", "fast#conservative"), PlacedModel("main", "fast#direct")
        )
    }


def test_a_part_that_is_served_anyway_is_not_loaded_twice():
    specs = {"fast": "conservative:mace:small#env=other+direct:water", "b": "mace:small#env=other"}
    placement = place(specs)
    assert placement.specs == {"other": {"b": "mace:small"}, "main": {"fast#direct": "water"}}
    assert placement.models["fast"].conservative == OTHER
    assert list(placement.models) == ["fast", "b"]


@pytest.mark.parametrize("spec", ["water#env=", "water#env", "water#env=a&env=b"])
def test_an_environment_is_named_once(spec):
    with pytest.raises(ModelLoadError, match="expected env=VALUE once, got env"):
        place({"a": spec})
