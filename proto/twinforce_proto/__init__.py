"""The contract between clients and the service: domain types, errors and messages."""

from twinforce_proto.errors import (
    DeadlineExceededError,
    FatalSystemError,
    InvalidRequestError,
    InvalidSystemError,
    ModelChangedError,
    ModelLoadError,
    NonFinitePredictionError,
    OverloadedError,
    PermissionDeniedError,
    PredictionError,
    RequestCancelledError,
    ServiceError,
    SystemTooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_proto.jacobian import Nonconservativity, NonconservativityRequest
from twinforce_proto.model_info import ModelInfo
from twinforce_proto.outputs import (
    AUTOGRAD_OUTPUTS,
    DEFAULT_OUTPUTS,
    FORCES,
    OUTPUTS,
    STRESSES,
    needs_autograd,
    parse_outputs,
)
from twinforce_proto.prediction import Prediction, PredictRequest, Provenance, Timings
from twinforce_proto.status import CallerUsage, DeviceStatus, ModelStatus, ServiceStatus
from twinforce_proto.system import System
from twinforce_proto.units import UNITS

__all__ = [
    "AUTOGRAD_OUTPUTS",
    "DEFAULT_OUTPUTS",
    "FORCES",
    "OUTPUTS",
    "STRESSES",
    "UNITS",
    "CallerUsage",
    "DeadlineExceededError",
    "DeviceStatus",
    "FatalSystemError",
    "InvalidRequestError",
    "InvalidSystemError",
    "ModelChangedError",
    "ModelInfo",
    "ModelLoadError",
    "ModelStatus",
    "NonFinitePredictionError",
    "Nonconservativity",
    "NonconservativityRequest",
    "OverloadedError",
    "PermissionDeniedError",
    "PredictRequest",
    "Prediction",
    "PredictionError",
    "Provenance",
    "RequestCancelledError",
    "ServiceError",
    "ServiceStatus",
    "System",
    "SystemTooLargeError",
    "Timings",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownModelError",
    "UnsupportedElementError",
    "UnsupportedOutputError",
    "needs_autograd",
    "parse_outputs",
]
