"""The state of a service, as it tells its callers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The state of a model, and what it has done for all callers since the start of the service.

    Its counts and times are None for those who may not see metrics.

    Attributes:
        name: Name of the model.
        is_available: True while requests for the model are accepted.
        environments: Environment of Python that it runs in; two for a hybrid whose parts are apart.
        n_evaluations: Number of systems evaluated.
        n_atoms: Number of atoms of these systems.
        n_batches: Number of batches that they were evaluated in.
        batch_fill: Mean part of the atoms or neighbor pairs that a batch may have, whichever is
            more.
        device_s: Time that these batches took on the device, in s.
        queue_s: Time that these systems waited for the device, in s, all added up.
    """

    name: str
    is_available: bool = False
    environments: tuple[str, ...] = ()
    n_evaluations: int | None = None
    n_atoms: int | None = None
    n_batches: int | None = None
    batch_fill: float | None = None
    device_s: float | None = None
    queue_s: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """The memory of a GPU, in bytes.

    Attributes:
        name: Name of the device, such as "cuda:0".
        used_bytes: Memory of tensors of the engine.
        reserved_bytes: Memory that the engine keeps for them; at least what is used.
        free_bytes: Memory that any process may take.
    """

    name: str
    used_bytes: int = 0
    reserved_bytes: int = 0
    free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CallerUsage:
    """The usage of a caller since the start of the service.

    Attributes:
        name: Name of the key, or the address or network of the caller.
        n_evaluations: Number of systems evaluated.
        n_atoms: Number of atoms of these systems.
        device_s: Time on the device, in s.
    """

    name: str
    n_evaluations: int = 0
    n_atoms: int = 0
    device_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The state of a service.

    Attributes:
        version: Version of the service.
        uptime_s: Time since its start, in s.
        is_alive: False after a failure that it does not recover from.
        is_ready: True while requests are accepted.
        models: Models that the caller may use; none until they are loaded.
        devices: GPUs that have been used; none on a CPU.
        callers: Usage of all callers for those who may see metrics, else that of the caller alone.
        n_waiting: Number of systems that wait for the device, of all callers.
        n_waiting_atoms: Number of atoms of these systems.
        n_runs: Number of systems that the service is moving.
        n_restarts: Number of engines that were restarted.
        start_id: Random text that is new at each start. Replies that differ in it come from
            different processes, such as replicas, and their counts cannot be compared.
    """

    version: str
    uptime_s: float
    is_alive: bool
    is_ready: bool
    models: tuple[ModelStatus, ...] = ()
    devices: tuple[DeviceStatus, ...] = ()
    callers: tuple[CallerUsage, ...] = ()
    n_waiting: int = 0
    n_waiting_atoms: int = 0
    n_runs: int = 0
    n_restarts: int = 0
    start_id: str = ""
