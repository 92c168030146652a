"""Published weights for tests; those that cannot be had are skipped, and the report says why."""

import pytest
from bench.runner.weights import (
    NEUROCHEM,
    WEIGHTS,
    WeightsUnavailableError,
    published_weights,
)

__all__ = ["NEUROCHEM", "WEIGHTS", "weights"]


def weights(name):
    """Return the path of published weights; skip the test if they cannot be had."""
    try:
        return published_weights(name)
    except WeightsUnavailableError as error:
        pytest.skip(str(error))
