"""The thin client of a TwinForce service: energies and forces of atomistic systems.

    with Client("grpc://127.0.0.1:8001") as client:
        prediction = client.predict(System(numbers, positions, cell, pbc=True), "hybrid")

Lengths in Å, energies in eV, forces in eV/Å, stresses in eV/Å³. The ASE calculator is in
`twinforce.ase`.
"""

from twinforce._async_client import AsyncClient, AsyncStream
from twinforce._client import Client, Stream
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.start import Integrator, Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import (
    OUTPUTS,
    UNITS,
    CallerUsage,
    DeadlineExceededError,
    DeviceStatus,
    FatalSystemError,
    InvalidRequestError,
    InvalidSystemError,
    ModelChangedError,
    ModelInfo,
    ModelLoadError,
    ModelStatus,
    Nonconservativity,
    NonFinitePredictionError,
    OverloadedError,
    PermissionDeniedError,
    Prediction,
    PredictionError,
    Provenance,
    RequestCancelledError,
    ServiceError,
    ServiceStatus,
    System,
    SystemTooLargeError,
    Timings,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)

__all__ = [
    "OUTPUTS",
    "UNITS",
    "AsyncClient",
    "AsyncStream",
    "CallerUsage",
    "Client",
    "DeadlineExceededError",
    "DeviceStatus",
    "FatalSystemError",
    "Integrator",
    "InvalidRequestError",
    "InvalidSystemError",
    "ModelChangedError",
    "ModelInfo",
    "ModelLoadError",
    "ModelStatus",
    "NonFinitePredictionError",
    "Nonconservativity",
    "OverloadedError",
    "PermissionDeniedError",
    "Prediction",
    "PredictionError",
    "Provenance",
    "Relaxed",
    "RequestCancelledError",
    "ServiceError",
    "ServiceStatus",
    "Snapshot",
    "Start",
    "Stream",
    "System",
    "SystemTooLargeError",
    "Timings",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownModelError",
    "UnsupportedElementError",
    "UnsupportedOutputError",
]
