"""The replies in JSON, as the OpenAPI description shows them; nothing is checked against them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

Row = tuple[float, float, float]
Matrix = tuple[Row, Row, Row]

_WHERE_ASKED_FOR = "if it was asked for"


def _forces(text: str) -> Any:
    return Field(None, description=f"{text}, one row per atom, in eV/Å, {_WHERE_ASKED_FOR}.")


def _stress(text: str) -> Any:
    return Field(None, description=f"{text}, in eV/Å³, {_WHERE_ASKED_FOR}.")


class ProvenanceReply(BaseModel):
    """The origin of a result: the model, weights, device and service that produced it."""

    model: str
    version: str
    sha256: str = Field(description="SHA-256 of the weights, in hexadecimal.")
    dtype: str
    device: str
    service_version: str


class TimingsReply(BaseModel):
    """The time that a request took, and the batch that it was part of."""

    queue_s: float = Field(description="Time spent waiting for the device, in s.")
    compute_s: float = Field(description="Time that the whole batch took on the device, in s.")
    batch_n_systems: int
    batch_n_atoms: int
    queue_n_atoms: int | None = Field(
        None, description="Number of atoms that waited for the device when the batch was done."
    )


class OutputsReply(BaseModel):
    """The outputs of one system."""

    energy: float | None = Field(None, description=f"In eV, {_WHERE_ASKED_FOR}.")
    atom_energies: list[float] | None = Field(None, description=f"In eV, {_WHERE_ASKED_FOR}.")
    conservative_forces: list[Row] | None = _forces("-dE/dr")
    direct_forces: list[Row] | None = _forces("Output of the force head")
    conservative_stress: Matrix | None = _stress("(1/V) dE/dstrain")
    direct_stress: Matrix | None = _stress("Output of the stress head")


class PredictionsReply(BaseModel):
    """The outputs of each system, in the order of the request."""

    model: str
    predictions: list[OutputsReply] = Field(min_length=1)
    provenance: ProvenanceReply
    timings: TimingsReply


class NonconservativityReply(BaseModel):
    """The distance of forces from a gradient."""

    model: str
    value: float = Field(description="λ, which is 0 for a gradient.", ge=0)
    jacobian_norm: float = Field(description="‖J‖, in eV/Å².", ge=0)
    antisymmetric_norm: float = Field(description="‖(J - Jᵀ)/2‖, in eV/Å².", ge=0)
    pair_norms: list[list[float]] | None = Field(None, description=f"Of J, {_WHERE_ASKED_FOR}.")
    antisymmetric_pair_norms: list[list[float]] | None = Field(
        None, description=f"Of (J - Jᵀ)/2, {_WHERE_ASKED_FOR}."
    )
    provenance: ProvenanceReply
    timings: TimingsReply


class DisagreementReply(BaseModel):
    """The disagreement of both kinds of forces."""

    rmse: float = Field(description="In eV/Å.")
    species_rmse: dict[str, float]
    work: float = Field(description="In eV.")
    total_work: float = Field(description="In eV.")


class SnapshotReply(BaseModel):
    """A line about a run."""

    step: int
    time_fs: float
    positions: list[Row]
    velocities: list[Row] = Field(description="In Å/fs.")
    cell: Matrix
    energy: float
    kinetic_energy: float
    conserved_energy: float
    temperature_k: float
    species_temperatures: dict[str, float | None]
    disagreement: DisagreementReply | None = None
    checkpoint: str = Field(description="To resume the run from; in base64.")
    provenance: ProvenanceReply


class RelaxedReply(BaseModel):
    """A line about a relaxation."""

    step: int
    positions: list[Row]
    energy: float
    largest_force: float = Field(description="On an atom that may move, in eV/Å.")
    driven_by: Literal["direct", "conservative"]
    is_converged: bool
    is_last: bool
    provenance: ProvenanceReply


class ModelReply(BaseModel):
    """The description of a model."""

    name: str
    version: str
    sha256: str
    architecture: str
    cutoff: float = Field(description="In Å.")
    elements: list[int]
    dtype: str
    device: str
    outputs: list[str]
    n_parameters: int
    uses_charge: bool
    uses_spin: bool
    units: dict[str, str]
    metadata: dict[str, Any]
    card: str = Field(description="The model card, in Markdown.")


class ModelsReply(BaseModel):
    """The models that the caller may use."""

    models: list[ModelReply]


class LiveReply(BaseModel):
    """The state of the process."""

    status: Literal["live"]


class ReadyReply(BaseModel):
    """The state of the models."""

    status: Literal["ready"]
    models: list[str]
    unavailable: list[str] | None = Field(None, description="Models whose engine is restarting.")


class ModelStatusReply(BaseModel):
    """The state of a model, and what it has done since the start of the service.

    Its counts and times are null for those who may not see metrics.
    """

    name: str
    is_available: bool
    environments: list[str] = Field(
        description="Environment of Python that it runs in; two for a hybrid whose parts are apart."
    )
    n_evaluations: int | None = Field(ge=0)
    n_atoms: int | None = Field(ge=0)
    n_batches: int | None = Field(ge=0)
    batch_fill: float | None = Field(description="Mean part of what a batch may have.", ge=0)
    device_s: float | None = Field(description="Time of its batches on the device, in s.", ge=0)
    queue_s: float | None = Field(description="Time that its systems waited, in s, added up.", ge=0)


class DeviceStatusReply(BaseModel):
    """The memory of a GPU."""

    name: str
    used_bytes: int
    reserved_bytes: int
    free_bytes: int


class CallerUsageReply(BaseModel):
    """The usage of a caller since the start of the service."""

    name: str
    n_evaluations: int = Field(ge=0)
    n_atoms: int = Field(ge=0)
    device_s: float = Field(description="Time on the device, in s.", ge=0)


class StatusReply(BaseModel):
    """The state of the service."""

    version: str
    uptime_s: float = Field(description="Time since its start, in s.", ge=0)
    is_alive: bool = Field(description="False after a failure that it does not recover from.")
    is_ready: bool = Field(description="True while requests are accepted.")
    models: list[ModelStatusReply] = Field(description="Models that the caller may use.")
    devices: list[DeviceStatusReply] = Field(description="GPUs that have been used.")
    callers: list[CallerUsageReply] = Field(
        description="All callers for those who may see metrics, else the caller alone."
    )
    n_waiting: int = Field(description="Systems that wait for the device.", ge=0)
    n_waiting_atoms: int = Field(description="Atoms of these systems.", ge=0)
    n_runs: int = Field(description="Systems that the service is moving.", ge=0)
    n_restarts: int = Field(description="Engines that were restarted.", ge=0)
    start_id: str = Field(
        description="Random text that is new at each start; replicas differ in it."
    )


class OpenRequestReply(BaseModel):
    """The state of a request."""

    is_open: bool
    n_lines_sent: int = Field(ge=0)


class Problem(BaseModel):
    """Problem details of an error, RFC 9457."""

    type: str = Field(description="Class of the error, after urn:twinforce:error:.")
    title: str = Field(description="Meaning of this class of errors.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="Expected and received values.")
    system_index: int | None = Field(
        None, description="Index, from 0, of the system that the error is about."
    )
    field: str | None = Field(None, description="Name of the field that the error is about.")
    retry_after: float | None = Field(None, description="Seconds after which to try again.")


REPLIES: tuple[type[BaseModel], ...] = (
    PredictionsReply,
    NonconservativityReply,
    SnapshotReply,
    RelaxedReply,
    ModelReply,
    ModelsReply,
    LiveReply,
    ReadyReply,
    StatusReply,
    OpenRequestReply,
    Problem,
)
