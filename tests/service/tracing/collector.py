"""A collector of traces in this process, which receives them as any other does."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Collector:
    """The spans that have arrived.

    Attributes:
        url: Address for exporters.
        headers: Headers, or metadata, of each request.
        resources: Attributes of the services.
    """

    def __init__(self):
        self.url, self.spans, self.headers, self.resources = "", [], [], []

    def take(self, data, headers):
        self.headers.append(headers)
        for each in ExportTraceServiceRequest.FromString(data).resource_spans:
            self.resources.append(attributes_of(each.resource))
            for scope in each.scope_spans:
                self.spans += scope.spans
        return ExportTraceServiceResponse().SerializeToString()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def names(self):
        return Counter(span.name for span in self.spans)


def attributes_of(holder):
    """Return the attributes of a span or a resource."""
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in holder.attributes
    }


@contextmanager
def collecting(protocol="grpc"):
    with (_over_grpc if protocol == "grpc" else _over_http)() as collector:
        yield collector


@contextmanager
def _over_grpc():
    collector = Collector()

    def export(data, context):
        return collector.take(data, dict(context.invocation_metadata()))

    class Methods(grpc.GenericRpcHandler):
        def service(self, details):
            assert details.method == _EXPORT
            return grpc.unary_unary_rpc_method_handler(export)

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([Methods()])
    collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


@contextmanager
def _over_http():
    collector = Collector()

    class Exporting(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            data = self.rfile.read(int(self.headers["Content-Length"]))
            content = collector.take(data, dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Exporting) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
