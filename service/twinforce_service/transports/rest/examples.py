"""Examples of requests and replies for the OpenAPI description."""

from typing import Any

from twinforce_proto import OUTPUTS, UNITS

WATER: dict[str, Any] = {
    "atomic_numbers": [8, 1, 1],
    "positions": [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]],
}
BOX = {"cell": [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]], "pbc": [True, True, True]}
_PROVENANCE = {
    "model": "water",
    "version": "1",
    "sha256": "66336559c8cd…",
    "dtype": "float32",
    "device": "cpu",
    "service_version": "0.2.0",
}
_TIMINGS = {
    "queue_s": 0.0004,
    "compute_s": 0.0121,
    "batch_n_systems": 8,
    "batch_n_atoms": 24,
    "queue_n_atoms": 0,
}
VALUES: dict[str, Any] = {
    "energy": -469.048,
    "conservative_forces": [[0.0, 0.0, -0.758], [0.0, -0.384, 0.379], [0.0, 0.384, 0.379]],
    "direct_forces": [[0.0, 0.0, -0.731], [0.0, -0.370, 0.366], [0.0, 0.370, 0.366]],
    "conservative_stress": [[0.0, 0.0, 0.0], [0.0, 0.000803, 0.0], [0.0, 0.0, 0.000620]],
}
NONCONSERVATIVITY = {
    "model": "water",
    "value": 0.00167,
    "jacobian_norm": 142.2,
    "antisymmetric_norm": 0.237,
    "pair_norms": [[75.9, 48.5, 48.5], [48.5, 50.0, 5.31], [48.5, 5.31, 50.0]],
    "antisymmetric_pair_norms": [[0.0, 0.097, 0.097], [0.097, 0.096, 0.01], [0.097, 0.01, 0.096]],
    "provenance": _PROVENANCE,
    "timings": _TIMINGS,
}
START: dict[str, Any] = {
    "start": {
        "system": WATER,
        "velocities": [[0.0, 0.001, 0.0], [0.0, -0.02, 0.01], [0.001, 0.004, -0.01]],
        "integrator": {
            "force_kind": "hybrid",
            "inner_steps": 4,
            "time_step_fs": 0.5,
            "svr": {"temperature_k": 300.0, "relaxation_fs": 100.0},
        },
        "seed": 1,
    },
    "n_steps": 80,
    "interval": 40,
}
SNAPSHOT = {
    "step": 80,
    "time_fs": 40.0,
    "positions": WATER["positions"],
    "velocities": START["start"]["velocities"],
    "cell": [[0.0, 0.0, 0.0]] * 3,
    "energy": -469.048,
    "kinetic_energy": 0.116,
    "conserved_energy": -468.931,
    "temperature_k": 300.1,
    "species_temperatures": {"H": 290.4, "O": 319.5},
    "disagreement": {
        "rmse": 0.031,
        "species_rmse": {"H": 0.029, "O": 0.034},
        "work": -0.0002,
        "total_work": -0.0041,
    },
    "checkpoint": "Chd0d2luZm9yY2U…",
    "provenance": _PROVENANCE,
}
RELAXED = {
    "step": 31,
    "positions": WATER["positions"],
    "energy": -469.061,
    "largest_force": 0.014,
    "driven_by": "conservative",
    "is_converged": True,
    "is_last": True,
    "provenance": _PROVENANCE,
}
OUTPUTS_OF_PATH = {
    "energy": ("energy",),
    "conservative-forces": ("energy", "conservative_forces"),
    "direct-forces": ("energy", "direct_forces"),
    "predict": ("energy", "conservative_forces", "direct_forces", "conservative_stress"),
}
INFO = {
    "name": "water",
    "version": "1",
    "sha256": "66336559c8cd…",
    "architecture": "hybrid_net",
    "cutoff": 4.5,
    "elements": [1, 8],
    "dtype": "float32",
    "device": "cpu",
    "outputs": list(OUTPUTS),
    "n_parameters": 231682,
    "uses_charge": False,
    "uses_spin": False,
    "units": dict(UNITS),
    "metadata": {"level_of_theory": "revPBE0-D3 (CP2K)", "licence": "CC-BY-SA-4.0"},
    "card": "# water 1 …",
}


def prediction_requests(path: str) -> dict[str, Any]:
    """Return examples of bodies for a path that predicts."""
    outputs = {"outputs": list(OUTPUTS_OF_PATH[path])} if path == "predict" else {}
    hybrid = {"outputs": ["hybrid"]} if path == "predict" else {}
    return {
        "periodic": {
            "summary": "A molecule in a periodic box",
            "value": {"systems": [WATER | BOX]} | outputs,
        },
        "molecule": {
            "summary": "A molecule without a cell",
            "value": {"systems": [WATER]} | hybrid,
        },
    }


def prediction_reply(path: str) -> dict[str, Any]:
    """Return an example of the reply of a path that predicts."""
    return {
        "model": "water",
        "predictions": [{name: VALUES[name] for name in OUTPUTS_OF_PATH[path]}],
        "provenance": _PROVENANCE,
        "timings": _TIMINGS,
    }


STATUS = {
    "version": "0.2.0",
    "uptime_s": 86400.0,
    "is_alive": True,
    "is_ready": True,
    "models": [
        {
            "name": "water",
            "is_available": True,
            "environments": ["main"],
            "n_evaluations": 120_000,
            "n_atoms": 23_040_000,
            "n_batches": 30_000,
            "batch_fill": 0.12,
            "device_s": 3600.0,
            "queue_s": 1200.0,
        }
    ],
    "devices": [
        {
            "name": "cuda:0",
            "used_bytes": 2_000_000_000,
            "reserved_bytes": 3_000_000_000,
            "free_bytes": 75_000_000_000,
        }
    ],
    "callers": [
        {"name": "alice", "n_evaluations": 120_000, "n_atoms": 23_040_000, "device_s": 3600.0}
    ],
    "n_waiting": 3,
    "n_waiting_atoms": 576,
    "n_runs": 1,
    "n_restarts": 0,
    "start_id": "5f0c1d7be2a94e83",
}
