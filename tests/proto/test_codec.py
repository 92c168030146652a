import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from twinforce_proto import (
    OUTPUTS,
    InvalidRequestError,
    InvalidSystemError,
    ModelInfo,
    OverloadedError,
    Prediction,
    PredictionError,
    PredictRequest,
    Provenance,
    ServiceError,
    System,
    Timings,
)
from twinforce_proto.codec import messages, stream
from twinforce_proto.errors import ERRORS
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.transports.rest.bodies import parsed_message

generated = settings(deadline=None, max_examples=50)

PROVENANCE = Provenance("water", "1", "ab" * 32, "float32", "cpu", "0.1.0")
TIMINGS = Timings(queue_s=0.001, compute_s=0.01, batch_n_systems=2, batch_n_atoms=6)
TIMINGS_WITH_QUEUE = dataclasses.replace(TIMINGS, queue_n_atoms=0)

coordinates = st.floats(-1e6, 1e6)
numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(codec="utf-8"), max_size=20)


def arrays(*shape):
    return npst.arrays(np.float64, shape, elements=numbers)


@st.composite
def systems(draw):
    n_atoms = draw(st.integers(1, 20))
    pbc = draw(npst.arrays(bool, 3))
    cell = np.eye(3) * draw(st.floats(1, 100)) + draw(
        npst.arrays(np.float64, (3, 3), elements=st.floats(-0.3, 0.3))
    )
    return System(
        draw(npst.arrays(np.int32, n_atoms, elements=st.integers(1, 118))),
        draw(npst.arrays(np.float64, (n_atoms, 3), elements=coordinates)),
        cell if pbc.any() or draw(st.booleans()) else None,
        pbc,
        draw(st.none() | numbers),
        draw(st.none() | st.integers(1, 2**31 - 1)),
    )


@st.composite
def predictions(draw):
    n_atoms = draw(st.integers(1, 20))
    return Prediction(
        energy=draw(st.none() | numbers),
        atom_energies=draw(st.none() | arrays(n_atoms)),
        conservative_forces=draw(st.none() | arrays(n_atoms, 3)),
        direct_forces=draw(st.none() | arrays(n_atoms, 3)),
        conservative_stress=draw(st.none() | arrays(3, 3)),
        direct_stress=draw(st.none() | arrays(3, 3)),
        provenance=draw(st.none() | st.just(PROVENANCE)),
        timings=draw(st.sampled_from([None, TIMINGS, TIMINGS_WITH_QUEUE])),
    )


outputs = st.sets(st.sampled_from(OUTPUTS), min_size=1).map(frozenset)


def assert_same(one, other):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def over_the_wire(message):
    return type(message).FromString(message.SerializeToString())


def water(**changes):
    values = {"atomic_numbers": [8, 1, 1], "positions": np.arange(9.0).reshape(3, 3)}
    return System(**values | changes)


@generated
@given(systems())
def test_a_system_survives_the_wire(system):
    assert_same(messages.system_from_proto(over_the_wire(messages.system_to_proto(system))), system)


@generated
@given(predictions())
def test_a_prediction_survives_the_wire(prediction):
    reply = over_the_wire(messages.predict_reply_to_proto("water", [prediction]))
    (decoded,) = messages.predict_reply_from_proto(reply)
    assert_same(decoded, prediction)


@generated
@given(
    st.lists(systems(), min_size=1, max_size=3),
    outputs,
    names,
    st.sampled_from(["float64", "float32"]),
)
def test_a_request_survives_the_wire(several, wanted, model, dtype):
    request = PredictRequest(model, tuple(several), wanted, dtype)
    data = messages.predict_request_to_proto(request).SerializeToString()
    decoded = messages.predict_request_from_proto(pb.PredictRequest.FromString(data))
    assert (decoded.model, decoded.outputs, decoded.reply_dtype) == (model, wanted, dtype)
    for one, other in zip(decoded.systems, several, strict=True):
        assert_same(one, other)


@generated
@given(
    st.sampled_from(list(ERRORS.values())),
    names,
    st.none() | st.integers(0, 1000),
    st.none() | st.just("positions"),
    st.none() | st.floats(0, 1e3),
)
def test_an_error_survives_the_wire(kind, message, system_index, field, retry_after):
    error = kind(message, system_index=system_index, field=field, retry_after=retry_after)
    decoded = messages.error_from_proto(over_the_wire(messages.error_to_proto(error)))
    assert type(decoded) is kind
    assert decoded.to_dict() == error.to_dict()


@generated
@given(outputs, st.booleans(), st.dictionaries(names, numbers | names | st.lists(st.integers())))
def test_a_model_info_survives_the_wire(wanted, uses_charge, metadata):
    info = ModelInfo(
        name="water",
        version="1",
        sha256="ab" * 32,
        architecture="hybrid-net",
        cutoff=5.0,
        elements=(1, 8),
        dtype="float32",
        device="cpu",
        outputs=tuple(name for name in OUTPUTS if name in wanted),
        n_parameters=110_000,
        uses_charge=uses_charge,
        units={"energy": "eV"},
        metadata=metadata,
        card="# Water",
    )
    assert messages.model_info_from_proto(over_the_wire(messages.model_info_to_proto(info))) == info


def test_positions_are_decoded_without_a_copy():
    message = over_the_wire(messages.system_to_proto(water()))
    system = messages.system_from_proto(message)
    assert not system.positions.flags.owndata
    assert not system.positions.flags.writeable


def test_arrays_are_encoded_little_endian_and_row_major():
    message = messages.system_to_proto(water())
    assert message.positions.data == np.arange(9, dtype="<f8").tobytes()
    assert message.atomic_numbers == np.array([8, 1, 1], dtype="<i4").tobytes()
    transposed = messages.system_to_proto(water(positions=np.arange(9.0).reshape(3, 3).T))
    assert transposed.positions.data == np.arange(9.0).reshape(3, 3).T.astype("<f8").tobytes()


def test_a_reply_in_float32_has_half_the_bytes_and_an_exact_energy():
    prediction = Prediction(energy=-0.1, direct_forces=np.full((100, 3), 0.1))
    message = messages.prediction_to_proto(prediction, "float32")
    assert len(message.direct_forces.data) == 1200
    decoded = messages.prediction_from_proto(message)
    assert decoded.energy == -0.1
    assert decoded.direct_forces.dtype == np.float64
    np.testing.assert_array_equal(decoded.direct_forces, np.full((100, 3), np.float32(0.1)))


def test_positions_may_come_in_float32():
    message = messages.system_to_proto(water())
    message.positions.dtype = pb.FLOAT32
    message.positions.data = np.arange(9, dtype="<f4").tobytes()
    np.testing.assert_array_equal(
        messages.system_from_proto(message).positions, np.arange(9.0).reshape(3, 3)
    )


@pytest.mark.parametrize("number", [pb.D_TYPE_UNSPECIFIED, pb.FLOAT64])
def test_float64_has_two_numbers_and_is_sent_without_one(number):
    encoded = messages.system_to_proto(water())
    assert encoded.positions.dtype == pb.D_TYPE_UNSPECIFIED
    encoded.positions.dtype = number
    np.testing.assert_array_equal(messages.system_from_proto(encoded).positions, water().positions)
    request = pb.PredictRequest(model="water", systems=[encoded], reply_dtype=number)
    assert messages.predict_request_from_proto(request).reply_dtype == "float64"


def broken(**changes):
    message = messages.system_to_proto(water(cell=np.eye(3) * 9, pbc=True))
    for name, value in changes.items():
        message.ClearField(name)
        if isinstance(value, pb.Array):
            getattr(message, name).CopyFrom(value)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        elif value is not None:
            setattr(message, name, value)
    return message


def doubles(n):
    return pb.Array(data=bytes(8 * n))


@pytest.mark.parametrize(
    ("message", "field", "problem"),
    [
        (broken(atomic_numbers=b"123"), "atomic_numbers", "a multiple of 4 bytes of int32"),
        (broken(atomic_numbers=b""), "atomic_numbers", "at least one atom, got none"),
        (broken(positions=None), "positions", "shape [3, 3], got shape [0, 3]"),
        (broken(positions=doubles(12)), "positions", "shape [3, 3], got shape [4, 3]"),
        (
            broken(positions=doubles(8)),
            "positions",
            "a multiple of 24 bytes of float64 for shape [n_atoms, 3], got 64 bytes",
        ),
        (
            broken(positions=pb.Array(dtype=pb.FLOAT32, data=bytes(40))),
            "positions",
            "a multiple of 12 bytes of float32 for shape [n_atoms, 3], got 40 bytes",
        ),
        (
            broken(positions=pb.Array(dtype=7, data=bytes(72))),
            "positions",
            "dtype FLOAT64 (0 or 2) or FLOAT32 (1), got 7",
        ),
        (broken(cell=doubles(6)), "cell", "72 bytes of float64 for shape [3, 3], got 48 bytes"),
        (broken(cell=doubles(18)), "cell", "72 bytes of float64 for shape [3, 3], got 144 bytes"),
        (broken(cell=doubles(9)), "cell", "a vector along each periodic direction"),
        (broken(cell=None), "cell", "a vector along each periodic direction"),
        (broken(pbc=[True]), "pbc", "three bools, or one, got shape [1]"),
        (broken(pbc=[True] * 4), "pbc", "three bools, or one, got shape [4]"),
        (broken(charge=np.nan), "charge", "a finite number, got nan"),
        (broken(spin_multiplicity=0), "spin_multiplicity", "a whole number from 1 to"),
    ],
)
def test_a_malformed_system_is_refused_with_field_expectation_and_value(message, field, problem):
    request = pb.PredictRequest(systems=[messages.system_to_proto(water()), message], outputs=[1])
    with pytest.raises(InvalidSystemError) as raised:
        messages.predict_request_from_proto(request)
    assert str(raised.value).startswith(f"systems[1]: {field}: expected {problem}")
    assert (raised.value.system_index, raised.value.field) == (1, field)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"systems": []}, "systems: expected at least one, got none"),
        ({"outputs": [0]}, "hybrid, got 'output 0'"),
        ({"outputs": [1, 99]}, "hybrid, got 'output 99'"),
        ({"reply_dtype": 5}, "reply_dtype: expected FLOAT64 (0 or 2) or FLOAT32 (1), got 5"),
    ],
)
def test_a_malformed_request_is_refused_with_field_expectation_and_value(changes, problem):
    values = {"model": "water", "systems": [messages.system_to_proto(water())], "outputs": [1]}
    with pytest.raises(InvalidRequestError) as raised:
        messages.predict_request_from_proto(pb.PredictRequest(**values | changes))
    assert problem in str(raised.value)
    assert raised.value.field in changes


def test_a_request_without_outputs_gets_energy_and_conservative_forces():
    message = pb.PredictRequest(model="water", systems=[messages.system_to_proto(water())])
    decoded = messages.predict_request_from_proto(message)
    assert decoded.outputs == {"energy", "conservative_forces"}


@generated
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_as_an_invalid_request(data):
    def read():
        message = parsed_message(pb.PredictRequest, data, "water", CallLimits(1000, 10, 100, 100))
        return messages.predict_request_from_proto(message)

    with pytest.raises((InvalidRequestError, InvalidSystemError)):
        read()


def test_an_unknown_reply_dtype_is_refused():
    with pytest.raises(InvalidRequestError, match="expected float64 or float32, got 'float16'"):
        messages.predict_request_to_proto(
            PredictRequest("water", (water(),), frozenset({"energy"}), "float16")
        )


def test_a_malformed_reply_raises_a_prediction_error():
    with pytest.raises(PredictionError, match=r"^direct_forces: expected a multiple of 24 bytes"):
        messages.prediction_from_proto(pb.Prediction(direct_forces=doubles(4)))


def test_a_reply_carries_the_timings_of_the_slowest_system():
    quick, slow = Timings(0.1, 0.1, 1, 3), Timings(0.0, 0.5, 2, 6)
    reply = messages.predict_reply_to_proto(
        "water", [Prediction(timings=quick), Prediction(timings=slow), Prediction()]
    )
    assert [each.timings for each in messages.predict_reply_from_proto(reply)] == [slow] * 3


ENERGY = frozenset({"energy"})


@pytest.fixture
def encoder():
    return stream.StreamEncoder("water")


@pytest.fixture
def decoder():
    return stream.StreamDecoder()


@st.composite
def trajectories(draw):
    """Draw a list of systems, many of which are the previous one with new coordinates."""
    steps = [draw(systems())]
    for _ in range(draw(st.integers(0, 5))):
        moved = steps[-1].moved(steps[-1].positions / 2, draw(st.sampled_from([None, np.eye(3)])))
        steps.append(draw(systems() | st.just(moved)))
    return steps


@generated
@given(trajectories(), st.lists(outputs, min_size=6, max_size=6))
def test_a_trajectory_survives_a_stream(trajectory, wanted):
    encoder, decoder = stream.StreamEncoder("water", "float32"), stream.StreamDecoder()
    for system, these in zip(trajectory, wanted, strict=False):
        request = decoder.decode(over_the_wire(encoder.encode(system, these)))
        assert (request.model, request.outputs, request.reply_dtype) == ("water", these, "float32")
        assert_same(request.systems[0], system)


def test_a_walker_sends_only_positions_and_the_cell_when_it_changes(encoder):
    system = water(cell=np.eye(3) * 9, pbc=True)
    first = encoder.encode(system, ENERGY)
    second = encoder.encode(system.moved(system.positions + 1), ENERGY)
    third = encoder.encode(system.moved(system.positions, np.eye(3) * 8), ENERGY)
    other = encoder.encode(water(atomic_numbers=[8, 1, 2], cell=np.eye(3) * 8, pbc=True), ENERGY)
    assert [m.WhichOneof("input") for m in (first, second, third, other)] == [
        "system", "move", "move", "system",
    ]  # fmt: skip
    assert (first.model, list(first.outputs)) == ("water", [pb.OUTPUT_ENERGY])
    assert not second.model
    assert not second.outputs
    assert not second.move.HasField("cell")
    assert third.move.HasField("cell")


def test_outputs_are_sent_again_when_they_change(encoder, decoder):
    decoder.decode(encoder.encode(water(), ENERGY))
    request = decoder.decode(encoder.encode(water(), frozenset({"direct_forces"})))
    assert request.outputs == {"direct_forces"}


def test_a_stream_begins_with_a_whole_system_and_a_model(decoder):
    with pytest.raises(InvalidRequestError, match="system: expected a whole system"):
        decoder.decode(pb.StreamRequest(model="water", move=pb.Move(positions=doubles(9))))
    with pytest.raises(InvalidRequestError, match="model: expected a name"):
        decoder.decode(pb.StreamRequest(system=messages.system_to_proto(water()), outputs=[1]))


def test_a_stream_message_without_a_system_or_a_move_is_refused(encoder, decoder):
    decoder.decode(encoder.encode(water(), ENERGY))
    with pytest.raises(InvalidRequestError, match="input: expected a system or a move"):
        decoder.decode(pb.StreamRequest())


def test_a_move_after_an_invalid_message_is_not_applied_to_an_older_system(encoder, decoder):
    decoder.decode(encoder.encode(water(), ENERGY))
    with pytest.raises(InvalidSystemError, match=r"positions: expected shape \[3, 3\]"):
        decoder.decode(pb.StreamRequest(move=pb.Move(positions=doubles(12))))
    with pytest.raises(InvalidRequestError, match="system: expected a whole system"):
        decoder.decode(encoder.encode(water(positions=np.ones((3, 3))), ENERGY))
    encoder.reset()
    assert_same(decoder.decode(encoder.encode(water(), ENERGY)).systems[0], water())


def test_a_stream_replies_with_a_prediction_or_raises_the_error():
    prediction = Prediction(energy=1.5, provenance=PROVENANCE, timings=TIMINGS)
    reply = over_the_wire(stream.stream_reply_to_proto(prediction, "float32"))
    assert_same(stream.stream_reply_from_proto(reply), prediction)
    refusal = stream.stream_reply_to_proto(OverloadedError("full", retry_after=2.0))
    with pytest.raises(OverloadedError, match="full") as raised:
        stream.stream_reply_from_proto(over_the_wire(refusal))
    assert raised.value.retry_after == 2.0
    with pytest.raises(ServiceError, match="got neither"):
        stream.stream_reply_from_proto(pb.StreamReply())
