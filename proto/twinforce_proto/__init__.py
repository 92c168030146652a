"""The contract between clients and service: domain types, errors, messages."""

from twinforce_proto.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    InvalidSystemError,
    ModelLoadError,
    NonFinitePredictionError,
    OverloadedError,
    PredictionError,
    RequestCancelledError,
    ServiceError,
    SystemTooLargeError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_proto.outputs import AUTOGRAD_OUTPUTS, OUTPUTS, needs_autograd, parse_outputs
from twinforce_proto.system import (
    ModelInfo,
    Prediction,
    PredictRequest,
    Provenance,
    System,
    Timings,
)
from twinforce_proto.units import UNITS

__all__ = [
    "AUTOGRAD_OUTPUTS",
    "OUTPUTS",
    "UNITS",
    "DeadlineExceededError",
    "InvalidRequestError",
    "InvalidSystemError",
    "ModelInfo",
    "ModelLoadError",
    "NonFinitePredictionError",
    "OverloadedError",
    "PredictRequest",
    "Prediction",
    "PredictionError",
    "Provenance",
    "RequestCancelledError",
    "ServiceError",
    "System",
    "SystemTooLargeError",
    "Timings",
    "UnavailableError",
    "UnknownModelError",
    "UnsupportedElementError",
    "UnsupportedOutputError",
    "needs_autograd",
    "parse_outputs",
]
