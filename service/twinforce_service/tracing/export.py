"""The export of spans to a collector, as the settings ask for it."""

from typing import TYPE_CHECKING, Any

from twinforce_service.settings import Settings
from twinforce_service.version import service_version

if TYPE_CHECKING:
    from twinforce_service.tracing.spans import CallTraces

_PATH = "/v1/traces"


def make_traces(settings: Settings) -> "CallTraces | None":
    """Return what records spans of calls; None if calls are not traced.

    Headers, certificates and times of the connection to the collector, and attributes of the
    service, come from the standard variables of OpenTelemetry.
    """
    if not settings.otlp_endpoint:
        return None
    # The packages that they need are installed only where traces are wanted.
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from twinforce_service.tracing.spans import CallTraces

    ours = {SERVICE_NAME: "twinforce", SERVICE_VERSION: service_version()}
    given = Resource.create().attributes
    named = {} if str(given[SERVICE_NAME]).startswith("unknown_service") else given
    resource = Resource({**given, **ours, **named})
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(settings)))
    return CallTraces(provider, settings.trace_share)


def _exporter(settings: Settings) -> Any:
    """Return what sends spans to the collector."""
    url = settings.otlp_endpoint
    if settings.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc

        return over_grpc.OTLPSpanExporter(url, insecure=url.lower().startswith("http://"))
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http

    return over_http.OTLPSpanExporter(url.rstrip("/").removesuffix(_PATH) + _PATH)
