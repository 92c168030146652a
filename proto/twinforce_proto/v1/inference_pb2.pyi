from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    D_TYPE_UNSPECIFIED: _ClassVar[DType]
    FLOAT32: _ClassVar[DType]
    FLOAT64: _ClassVar[DType]

class Output(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_UNSPECIFIED: _ClassVar[Output]
    OUTPUT_ENERGY: _ClassVar[Output]
    OUTPUT_ATOM_ENERGIES: _ClassVar[Output]
    OUTPUT_CONSERVATIVE_FORCES: _ClassVar[Output]
    OUTPUT_DIRECT_FORCES: _ClassVar[Output]
    OUTPUT_CONSERVATIVE_STRESS: _ClassVar[Output]
    OUTPUT_DIRECT_STRESS: _ClassVar[Output]

class ForceKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORCE_KIND_UNSPECIFIED: _ClassVar[ForceKind]
    FORCE_KIND_CONSERVATIVE: _ClassVar[ForceKind]
    FORCE_KIND_DIRECT: _ClassVar[ForceKind]
    FORCE_KIND_HYBRID: _ClassVar[ForceKind]
D_TYPE_UNSPECIFIED: DType
FLOAT32: DType
FLOAT64: DType
OUTPUT_UNSPECIFIED: Output
OUTPUT_ENERGY: Output
OUTPUT_ATOM_ENERGIES: Output
OUTPUT_CONSERVATIVE_FORCES: Output
OUTPUT_DIRECT_FORCES: Output
OUTPUT_CONSERVATIVE_STRESS: Output
OUTPUT_DIRECT_STRESS: Output
FORCE_KIND_UNSPECIFIED: ForceKind
FORCE_KIND_CONSERVATIVE: ForceKind
FORCE_KIND_DIRECT: ForceKind
FORCE_KIND_HYBRID: ForceKind

class Array(_message.Message):
    __slots__ = ("dtype", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DType
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DType, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class System(_message.Message):
    __slots__ = ("atomic_numbers", "positions", "cell", "pbc", "charge", "spin_multiplicity")
    ATOMIC_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    PBC_FIELD_NUMBER: _ClassVar[int]
    CHARGE_FIELD_NUMBER: _ClassVar[int]
    SPIN_MULTIPLICITY_FIELD_NUMBER: _ClassVar[int]
    atomic_numbers: bytes
    positions: Array
    cell: Array
    pbc: _containers.RepeatedScalarFieldContainer[bool]
    charge: float
    spin_multiplicity: int
    def __init__(self, atomic_numbers: _Optional[bytes] = ..., positions: _Optional[_Union[Array, _Mapping]] = ..., cell: _Optional[_Union[Array, _Mapping]] = ..., pbc: _Optional[_Iterable[bool]] = ..., charge: _Optional[float] = ..., spin_multiplicity: _Optional[int] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("model", "systems", "outputs", "reply_dtype")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SYSTEMS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    REPLY_DTYPE_FIELD_NUMBER: _ClassVar[int]
    model: str
    systems: _containers.RepeatedCompositeFieldContainer[System]
    outputs: _containers.RepeatedScalarFieldContainer[Output]
    reply_dtype: DType
    def __init__(self, model: _Optional[str] = ..., systems: _Optional[_Iterable[_Union[System, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Output, str]]] = ..., reply_dtype: _Optional[_Union[DType, str]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("energy", "atom_energies", "conservative_forces", "direct_forces", "conservative_stress", "direct_stress")
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    ATOM_ENERGIES_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_FORCES_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FORCES_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_STRESS_FIELD_NUMBER: _ClassVar[int]
    DIRECT_STRESS_FIELD_NUMBER: _ClassVar[int]
    energy: float
    atom_energies: Array
    conservative_forces: Array
    direct_forces: Array
    conservative_stress: Array
    direct_stress: Array
    def __init__(self, energy: _Optional[float] = ..., atom_energies: _Optional[_Union[Array, _Mapping]] = ..., conservative_forces: _Optional[_Union[Array, _Mapping]] = ..., direct_forces: _Optional[_Union[Array, _Mapping]] = ..., conservative_stress: _Optional[_Union[Array, _Mapping]] = ..., direct_stress: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("model", "version", "sha256", "dtype", "device", "service_version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    sha256: str
    dtype: str
    device: str
    service_version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., sha256: _Optional[str] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., service_version: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_s", "compute_s", "batch_n_systems", "batch_n_atoms", "queue_n_atoms")
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    BATCH_N_SYSTEMS_FIELD_NUMBER: _ClassVar[int]
    BATCH_N_ATOMS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_N_ATOMS_FIELD_NUMBER: _ClassVar[int]
    queue_s: float
    compute_s: float
    batch_n_systems: int
    batch_n_atoms: int
    queue_n_atoms: int
    def __init__(self, queue_s: _Optional[float] = ..., compute_s: _Optional[float] = ..., batch_n_systems: _Optional[int] = ..., batch_n_atoms: _Optional[int] = ..., queue_n_atoms: _Optional[int] = ...) -> None: ...

class PredictReply(_message.Message):
    __slots__ = ("model", "predictions", "provenance", "timings")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    model: str
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    provenance: Provenance
    timings: Timings
    def __init__(self, model: _Optional[str] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("model", "outputs", "reply_dtype", "system", "move", "traceparent")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    REPLY_DTYPE_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    model: str
    outputs: _containers.RepeatedScalarFieldContainer[Output]
    reply_dtype: DType
    system: System
    move: Move
    traceparent: str
    def __init__(self, model: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[Output, str]]] = ..., reply_dtype: _Optional[_Union[DType, str]] = ..., system: _Optional[_Union[System, _Mapping]] = ..., move: _Optional[_Union[Move, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ("positions", "cell")
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    positions: Array
    cell: Array
    def __init__(self, positions: _Optional[_Union[Array, _Mapping]] = ..., cell: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...

class StreamReply(_message.Message):
    __slots__ = ("prediction", "error", "provenance", "timings")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    error: Error
    provenance: Provenance
    timings: Timings
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class NonconservativityRequest(_message.Message):
    __slots__ = ("model", "system", "output", "pairs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    model: str
    system: System
    output: Output
    pairs: bool
    def __init__(self, model: _Optional[str] = ..., system: _Optional[_Union[System, _Mapping]] = ..., output: _Optional[_Union[Output, str]] = ..., pairs: bool = ...) -> None: ...

class NonconservativityReply(_message.Message):
    __slots__ = ("model", "value", "jacobian_norm", "antisymmetric_norm", "pair_norms", "antisymmetric_pair_norms", "provenance", "timings")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    JACOBIAN_NORM_FIELD_NUMBER: _ClassVar[int]
    ANTISYMMETRIC_NORM_FIELD_NUMBER: _ClassVar[int]
    PAIR_NORMS_FIELD_NUMBER: _ClassVar[int]
    ANTISYMMETRIC_PAIR_NORMS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    model: str
    value: float
    jacobian_norm: float
    antisymmetric_norm: float
    pair_norms: Array
    antisymmetric_pair_norms: Array
    provenance: Provenance
    timings: Timings
    def __init__(self, model: _Optional[str] = ..., value: _Optional[float] = ..., jacobian_norm: _Optional[float] = ..., antisymmetric_norm: _Optional[float] = ..., pair_norms: _Optional[_Union[Array, _Mapping]] = ..., antisymmetric_pair_norms: _Optional[_Union[Array, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class SVR(_message.Message):
    __slots__ = ("temperature_k", "relaxation_fs", "is_local")
    TEMPERATURE_K_FIELD_NUMBER: _ClassVar[int]
    RELAXATION_FS_FIELD_NUMBER: _ClassVar[int]
    IS_LOCAL_FIELD_NUMBER: _ClassVar[int]
    temperature_k: float
    relaxation_fs: float
    is_local: bool
    def __init__(self, temperature_k: _Optional[float] = ..., relaxation_fs: _Optional[float] = ..., is_local: bool = ...) -> None: ...

class Langevin(_message.Message):
    __slots__ = ("temperature_k", "relaxation_fs")
    TEMPERATURE_K_FIELD_NUMBER: _ClassVar[int]
    RELAXATION_FS_FIELD_NUMBER: _ClassVar[int]
    temperature_k: float
    relaxation_fs: float
    def __init__(self, temperature_k: _Optional[float] = ..., relaxation_fs: _Optional[float] = ...) -> None: ...

class NPT(_message.Message):
    __slots__ = ("svr", "langevin", "pressure_bar", "relaxation_fs", "is_anisotropic", "compressibility_per_bar")
    SVR_FIELD_NUMBER: _ClassVar[int]
    LANGEVIN_FIELD_NUMBER: _ClassVar[int]
    PRESSURE_BAR_FIELD_NUMBER: _ClassVar[int]
    RELAXATION_FS_FIELD_NUMBER: _ClassVar[int]
    IS_ANISOTROPIC_FIELD_NUMBER: _ClassVar[int]
    COMPRESSIBILITY_PER_BAR_FIELD_NUMBER: _ClassVar[int]
    svr: SVR
    langevin: Langevin
    pressure_bar: float
    relaxation_fs: float
    is_anisotropic: bool
    compressibility_per_bar: float
    def __init__(self, svr: _Optional[_Union[SVR, _Mapping]] = ..., langevin: _Optional[_Union[Langevin, _Mapping]] = ..., pressure_bar: _Optional[float] = ..., relaxation_fs: _Optional[float] = ..., is_anisotropic: bool = ..., compressibility_per_bar: _Optional[float] = ...) -> None: ...

class Integrator(_message.Message):
    __slots__ = ("force_kind", "inner_steps", "time_step_fs", "svr", "langevin", "npt")
    FORCE_KIND_FIELD_NUMBER: _ClassVar[int]
    INNER_STEPS_FIELD_NUMBER: _ClassVar[int]
    TIME_STEP_FS_FIELD_NUMBER: _ClassVar[int]
    SVR_FIELD_NUMBER: _ClassVar[int]
    LANGEVIN_FIELD_NUMBER: _ClassVar[int]
    NPT_FIELD_NUMBER: _ClassVar[int]
    force_kind: ForceKind
    inner_steps: int
    time_step_fs: float
    svr: SVR
    langevin: Langevin
    npt: NPT
    def __init__(self, force_kind: _Optional[_Union[ForceKind, str]] = ..., inner_steps: _Optional[int] = ..., time_step_fs: _Optional[float] = ..., svr: _Optional[_Union[SVR, _Mapping]] = ..., langevin: _Optional[_Union[Langevin, _Mapping]] = ..., npt: _Optional[_Union[NPT, _Mapping]] = ...) -> None: ...

class RandomState(_message.Message):
    __slots__ = ("state", "increment", "left_over")
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCREMENT_FIELD_NUMBER: _ClassVar[int]
    LEFT_OVER_FIELD_NUMBER: _ClassVar[int]
    state: bytes
    increment: bytes
    left_over: int
    def __init__(self, state: _Optional[bytes] = ..., increment: _Optional[bytes] = ..., left_over: _Optional[int] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("system", "velocities", "masses", "fixed_atoms", "integrator", "seed", "random_state")
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    VELOCITIES_FIELD_NUMBER: _ClassVar[int]
    MASSES_FIELD_NUMBER: _ClassVar[int]
    FIXED_ATOMS_FIELD_NUMBER: _ClassVar[int]
    INTEGRATOR_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RANDOM_STATE_FIELD_NUMBER: _ClassVar[int]
    system: System
    velocities: Array
    masses: Array
    fixed_atoms: bytes
    integrator: Integrator
    seed: int
    random_state: RandomState
    def __init__(self, system: _Optional[_Union[System, _Mapping]] = ..., velocities: _Optional[_Union[Array, _Mapping]] = ..., masses: _Optional[_Union[Array, _Mapping]] = ..., fixed_atoms: _Optional[bytes] = ..., integrator: _Optional[_Union[Integrator, _Mapping]] = ..., seed: _Optional[int] = ..., random_state: _Optional[_Union[RandomState, _Mapping]] = ...) -> None: ...

class PropagateRequest(_message.Message):
    __slots__ = ("model", "start", "checkpoint", "n_steps", "interval", "allow_model_change")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    N_STEPS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MODEL_CHANGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    start: Start
    checkpoint: bytes
    n_steps: int
    interval: int
    allow_model_change: bool
    def __init__(self, model: _Optional[str] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., checkpoint: _Optional[bytes] = ..., n_steps: _Optional[int] = ..., interval: _Optional[int] = ..., allow_model_change: bool = ...) -> None: ...

class ForceDisagreement(_message.Message):
    __slots__ = ("rmse", "species_rmse", "work", "total_work")
    class SpeciesRmseEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RMSE_FIELD_NUMBER: _ClassVar[int]
    SPECIES_RMSE_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    TOTAL_WORK_FIELD_NUMBER: _ClassVar[int]
    rmse: float
    species_rmse: _containers.ScalarMap[str, float]
    work: float
    total_work: float
    def __init__(self, rmse: _Optional[float] = ..., species_rmse: _Optional[_Mapping[str, float]] = ..., work: _Optional[float] = ..., total_work: _Optional[float] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("step", "time_fs", "positions", "velocities", "cell", "energy", "kinetic_energy", "conserved_energy", "temperature_k", "species_temperatures", "disagreement", "checkpoint", "provenance")
    class SpeciesTemperaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    TIME_FS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    VELOCITIES_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    KINETIC_ENERGY_FIELD_NUMBER: _ClassVar[int]
    CONSERVED_ENERGY_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_K_FIELD_NUMBER: _ClassVar[int]
    SPECIES_TEMPERATURES_FIELD_NUMBER: _ClassVar[int]
    DISAGREEMENT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    step: int
    time_fs: float
    positions: Array
    velocities: Array
    cell: Array
    energy: float
    kinetic_energy: float
    conserved_energy: float
    temperature_k: float
    species_temperatures: _containers.ScalarMap[str, float]
    disagreement: ForceDisagreement
    checkpoint: bytes
    provenance: Provenance
    def __init__(self, step: _Optional[int] = ..., time_fs: _Optional[float] = ..., positions: _Optional[_Union[Array, _Mapping]] = ..., velocities: _Optional[_Union[Array, _Mapping]] = ..., cell: _Optional[_Union[Array, _Mapping]] = ..., energy: _Optional[float] = ..., kinetic_energy: _Optional[float] = ..., conserved_energy: _Optional[float] = ..., temperature_k: _Optional[float] = ..., species_temperatures: _Optional[_Mapping[str, float]] = ..., disagreement: _Optional[_Union[ForceDisagreement, _Mapping]] = ..., checkpoint: _Optional[bytes] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ...) -> None: ...

class RelaxRequest(_message.Message):
    __slots__ = ("model", "system", "force_kind", "fmax", "max_steps", "interval", "fixed_atoms")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    FORCE_KIND_FIELD_NUMBER: _ClassVar[int]
    FMAX_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    FIXED_ATOMS_FIELD_NUMBER: _ClassVar[int]
    model: str
    system: System
    force_kind: ForceKind
    fmax: float
    max_steps: int
    interval: int
    fixed_atoms: bytes
    def __init__(self, model: _Optional[str] = ..., system: _Optional[_Union[System, _Mapping]] = ..., force_kind: _Optional[_Union[ForceKind, str]] = ..., fmax: _Optional[float] = ..., max_steps: _Optional[int] = ..., interval: _Optional[int] = ..., fixed_atoms: _Optional[bytes] = ...) -> None: ...

class Relaxed(_message.Message):
    __slots__ = ("step", "positions", "energy", "largest_force", "driven_by", "is_converged", "is_last", "provenance")
    STEP_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FORCE_FIELD_NUMBER: _ClassVar[int]
    DRIVEN_BY_FIELD_NUMBER: _ClassVar[int]
    IS_CONVERGED_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    step: int
    positions: Array
    energy: float
    largest_force: float
    driven_by: ForceKind
    is_converged: bool
    is_last: bool
    provenance: Provenance
    def __init__(self, step: _Optional[int] = ..., positions: _Optional[_Union[Array, _Mapping]] = ..., energy: _Optional[float] = ..., largest_force: _Optional[float] = ..., driven_by: _Optional[_Union[ForceKind, str]] = ..., is_converged: bool = ..., is_last: bool = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("format", "model", "sha256", "start", "momenta", "prediction", "supplied", "correction_work", "step")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    MOMENTA_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    SUPPLIED_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_WORK_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    format: str
    model: str
    sha256: str
    start: Start
    momenta: Array
    prediction: Prediction
    supplied: float
    correction_work: float
    step: int
    def __init__(self, format: _Optional[str] = ..., model: _Optional[str] = ..., sha256: _Optional[str] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., momenta: _Optional[_Union[Array, _Mapping]] = ..., prediction: _Optional[_Union[Prediction, _Mapping]] = ..., supplied: _Optional[float] = ..., correction_work: _Optional[float] = ..., step: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("type", "message", "system_index", "field", "retry_after")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    type: str
    message: str
    system_index: int
    field: str
    retry_after: float
    def __init__(self, type: _Optional[str] = ..., message: _Optional[str] = ..., system_index: _Optional[int] = ..., field: _Optional[str] = ..., retry_after: _Optional[float] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "version", "sha256", "architecture", "cutoff", "elements", "dtype", "device", "outputs", "n_parameters", "uses_charge", "uses_spin", "units", "metadata_json", "card")
    class UnitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    CUTOFF_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    N_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    USES_CHARGE_FIELD_NUMBER: _ClassVar[int]
    USES_SPIN_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    sha256: str
    architecture: str
    cutoff: float
    elements: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    device: str
    outputs: _containers.RepeatedScalarFieldContainer[Output]
    n_parameters: int
    uses_charge: bool
    uses_spin: bool
    units: _containers.ScalarMap[str, str]
    metadata_json: str
    card: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., sha256: _Optional[str] = ..., architecture: _Optional[str] = ..., cutoff: _Optional[float] = ..., elements: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[Output, str]]] = ..., n_parameters: _Optional[int] = ..., uses_charge: bool = ..., uses_spin: bool = ..., units: _Optional[_Mapping[str, str]] = ..., metadata_json: _Optional[str] = ..., card: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelInfo]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelInfo, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServiceStatus(_message.Message):
    __slots__ = ("version", "uptime_s", "is_alive", "is_ready", "models", "devices", "callers", "n_waiting", "n_waiting_atoms", "n_runs", "n_restarts", "start_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    IS_ALIVE_FIELD_NUMBER: _ClassVar[int]
    IS_READY_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    CALLERS_FIELD_NUMBER: _ClassVar[int]
    N_WAITING_FIELD_NUMBER: _ClassVar[int]
    N_WAITING_ATOMS_FIELD_NUMBER: _ClassVar[int]
    N_RUNS_FIELD_NUMBER: _ClassVar[int]
    N_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    START_ID_FIELD_NUMBER: _ClassVar[int]
    version: str
    uptime_s: float
    is_alive: bool
    is_ready: bool
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceStatus]
    callers: _containers.RepeatedCompositeFieldContainer[CallerUsage]
    n_waiting: int
    n_waiting_atoms: int
    n_runs: int
    n_restarts: int
    start_id: str
    def __init__(self, version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., is_alive: bool = ..., is_ready: bool = ..., models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ..., devices: _Optional[_Iterable[_Union[DeviceStatus, _Mapping]]] = ..., callers: _Optional[_Iterable[_Union[CallerUsage, _Mapping]]] = ..., n_waiting: _Optional[int] = ..., n_waiting_atoms: _Optional[int] = ..., n_runs: _Optional[int] = ..., n_restarts: _Optional[int] = ..., start_id: _Optional[str] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("name", "is_available", "environments", "n_evaluations", "n_atoms", "n_batches", "batch_fill", "device_s", "queue_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    N_EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    N_ATOMS_FIELD_NUMBER: _ClassVar[int]
    N_BATCHES_FIELD_NUMBER: _ClassVar[int]
    BATCH_FILL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_S_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    is_available: bool
    environments: _containers.RepeatedScalarFieldContainer[str]
    n_evaluations: int
    n_atoms: int
    n_batches: int
    batch_fill: float
    device_s: float
    queue_s: float
    def __init__(self, name: _Optional[str] = ..., is_available: bool = ..., environments: _Optional[_Iterable[str]] = ..., n_evaluations: _Optional[int] = ..., n_atoms: _Optional[int] = ..., n_batches: _Optional[int] = ..., batch_fill: _Optional[float] = ..., device_s: _Optional[float] = ..., queue_s: _Optional[float] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("name", "used_bytes", "reserved_bytes", "free_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    used_bytes: int
    reserved_bytes: int
    free_bytes: int
    def __init__(self, name: _Optional[str] = ..., used_bytes: _Optional[int] = ..., reserved_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ...) -> None: ...

class CallerUsage(_message.Message):
    __slots__ = ("name", "n_evaluations", "n_atoms", "device_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    N_EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    N_ATOMS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    n_evaluations: int
    n_atoms: int
    device_s: float
    def __init__(self, name: _Optional[str] = ..., n_evaluations: _Optional[int] = ..., n_atoms: _Optional[int] = ..., device_s: _Optional[float] = ...) -> None: ...
