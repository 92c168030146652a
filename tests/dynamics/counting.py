"""A gRPC proxy that counts the outputs that clients request."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc

from twinforce_proto.codec.stream import StreamDecoder
from twinforce_proto.v1 import inference_pb2_grpc as rpc


class CountingService(rpc.InferenceServicer):
    """Forwards every call; `requested` counts the outputs of each message, sorted and joined.

    The sizes of the messages of streams, in bytes, are in `sizes`.
    """

    def __init__(self, url):
        self._channel = grpc.insecure_channel(url.removeprefix("grpc://"))
        self._stub = rpc.InferenceStub(self._channel)
        self._server = grpc.server(ThreadPoolExecutor(4))
        rpc.add_InferenceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self.url = f"grpc://127.0.0.1:{port}"
        self.requested = Counter()
        self.sizes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stop(None).wait()
        self._channel.close()

    def ListModels(self, request, _context):  # noqa: N802
        return self._stub.ListModels(request)

    def GetModel(self, request, _context):  # noqa: N802
        return self._stub.GetModel(request)

    def Predict(self, request, _context):  # noqa: N802
        self.requested["unary"] += 1
        return self._stub.Predict(request)

    def PredictStream(self, requests, _context):  # noqa: N802
        yield from self._stub.PredictStream(self._counted(requests))

    def Propagate(self, request, _context):  # noqa: N802
        self.requested["propagate"] += 1
        yield from self._stub.Propagate(request)

    def Relax(self, request, _context):  # noqa: N802
        self.requested["relax"] += 1
        yield from self._stub.Relax(request)

    def _counted(self, requests):
        decoder = StreamDecoder()
        for request in requests:
            self.requested[" ".join(sorted(decoder.decode(request).outputs))] += 1
            self.sizes.append(request.ByteSize())
            yield request
