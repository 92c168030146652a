"""REST bodies as a client sends and reads them."""

import numpy as np

from twinforce_proto import OUTPUTS, Prediction, PredictRequest
from twinforce_proto.codec.messages import predict_reply_from_proto, predict_request_to_proto
from twinforce_proto.v1 import inference_pb2 as pb

PROTOBUF = "application/x-protobuf"


def json_system(system):
    return {
        "atomic_numbers": system.atomic_numbers.tolist(),
        "positions": system.positions.tolist(),
        "cell": system.cell.tolist(),
        "pbc": system.pbc.tolist(),
    }


def json_body(*systems, **more):
    return {"systems": [json_system(system) for system in systems]} | more


def json_predictions(reply):
    return [
        Prediction(**{n: v if n == "energy" else np.array(v) for n, v in each.items()})
        for each in reply.json()["predictions"]
    ]


def protobuf_body(*systems, outputs=OUTPUTS, model="soft", **more):
    request = PredictRequest(model, systems, frozenset(outputs), **more)
    return predict_request_to_proto(request).SerializeToString()


def protobuf_predictions(reply):
    return predict_reply_from_proto(pb.PredictReply.FromString(reply.content))


def assert_same(predictions, expected, outputs, tolerance=1e-10):
    """Assert that each prediction holds these outputs and no others, with the expected values."""
    assert len(predictions) == len(expected)
    for ours, theirs in zip(predictions, expected, strict=True):
        given = {name for name in OUTPUTS if getattr(ours, name) is not None}
        assert given == set(outputs)
        for name in outputs:
            np.testing.assert_allclose(
                getattr(ours, name), getattr(theirs, name), rtol=0, atol=tolerance
            )
