"""The start of many replicas at once, which read their weights from one volume."""

from typing import Any

# Assumptions, in s and GB: a process that is up with its model on the device, besides the weights;
# a build of compiled models and kernels; bandwidth of the volume, in GB/s.
START_S, BUILD_S, BANDWIDTH = 15.0, 90.0, 1.0
# Sizes of weights in GB: a PET, and a large model.
WEIGHTS_GB = (0.1, 2.0)
_N_STARTING = (1, 10, 100, 333)


def starts() -> list[dict[str, Any]]:
    """Return the time from a process that begins to one that is ready, in s.

    All read at the same time and share the bandwidth, so that all end together.
    """
    rows = []
    for size in WEIGHTS_GB:
        for n in _N_STARTING:
            reading = n * size / BANDWIDTH
            cached = START_S + reading
            rows.append(
                {
                    "weights_gb": size,
                    "n_starting": n,
                    "cached_s": round(cached, 1),
                    "building_s": round(cached + BUILD_S, 1),
                    "own_copy_s": round(START_S + size / BANDWIDTH, 1),
                }
            )
    return rows
