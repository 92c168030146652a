"""Services that the tests of other programs use, in processes of their own."""

from contextlib import contextmanager

from twinforce.distill.programs.services import ServiceOptions, running_service


@contextmanager
def service_of(folder, **models):
    """Run a service of these models in float64; yield its address over gRPC."""
    options = ServiceOptions(dtype="float64", device="cpu", threads=1, is_compiled=False)
    title = f"the service of {', '.join(models)}"
    with running_service(models, options, folder / "service.log", title, timeout_s=300.0) as client:
        yield client.url
