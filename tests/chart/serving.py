"""A service that was used for all that its metrics count."""

import numpy as np

from tests.systems import molecule
from twinforce import Client, Integrator, Start


def use(url, **options):
    """Evaluate, move and differentiate a molecule."""
    system = molecule(4)
    with Client(url, timeout=120, **options) as client:
        client.predict(system, outputs="hybrid")
        client.nonconservativity(system)
        start = Start(system, np.zeros((4, 3)), Integrator(force_kind="conservative"))
        list(client.propagate(start, 2))
