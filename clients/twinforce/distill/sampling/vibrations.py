"""The highest vibration in sampled trajectories, which limits the outer step."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from twinforce.assess.analysis.motion import velocity_spectrum
from twinforce.distill.sampling.sampling_round import LabeledTrajectory

# Trajectories from which the shortest vibrational period is read off.
_SHORTEST_WINDOW_FS = 150.0
# Vibrations above this share of the highest frequency that the labels resolve are not trusted.
_MOST_RESOLVED = 0.8
# Half width of a line in a spectrum at the threshold of `Spectrum.highest`, in its resolution.
_LINE_WIDTH = 1.5


def highest_vibration(trajectories: Sequence[LabeledTrajectory]) -> dict[str, float] | None:
    """Return the highest wave number of the longest trajectory, in 1/cm, and its length, in fs.

    Velocities are differences of positions. The window of a short trajectory widens each line by
    a few times the resolution, which is subtracted.
    """
    longest: tuple[float, Any] | None = None
    for each in trajectories:
        for segment in np.unique(each.labels.segments):
            members = each.labels.segments == segment
            step_fs = float(each.labels.steps_fs[members][0])
            length_fs = step_fs * members.sum()
            if longest is None or length_fs > longest[0]:
                longest = length_fs, (each.labels.positions[members], step_fs)
    if longest is None or longest[0] < _SHORTEST_WINDOW_FS:
        return None
    positions, step_fs = longest[1]
    velocities = np.diff(positions, axis=0)
    spectrum = velocity_spectrum(velocities, step_fs, len(velocities) * step_fs * 1e-3)
    if spectrum is None or spectrum.highest > _MOST_RESOLVED * spectrum.wave_numbers[-1]:
        return None
    resolution = float(spectrum.wave_numbers[1])
    highest = max(spectrum.highest - _LINE_WIDTH * resolution, resolution)
    return {"wave_number": highest, "length_fs": longest[0]}
