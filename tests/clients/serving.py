"""Services of the toy potential for the tests of the clients."""

from urllib.parse import urlsplit

from twinforce_service.embedded import run_in_thread
from twinforce_service.settings import Settings

TOY = "toy:lennard-jones"
ARGON = 18


def serve(potentials=None, **settings):
    """Start a service of the given loaded models, or of `lj`, the toy potential in float64.

    A function in place of the models is called to load them.
    """
    defaults = {"dtype": "float64", "model": {"lj": TOY}, "rest_port": 0, "grpc_port": 0}
    settings = Settings(water=False, device="cpu", n_threads=1, **defaults | settings)
    load = potentials if potentials is None or callable(potentials) else lambda: potentials
    return run_in_thread(settings, load)


def port_of(url):
    return urlsplit(url).port
