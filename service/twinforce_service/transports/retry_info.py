"""The time after which a call over gRPC may be repeated, in the form that gRPC libraries read."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from twinforce_proto import ServiceError

STATUS_METADATA_KEY = "grpc-status-details-bin"


def retry_details(error: ServiceError, message: str) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata with `google.rpc.RetryInfo`; none if no time is known.

    Args:
        error: Error that ends the call.
        message: Message of the call's status, which must be the same.
    """
    if error.retry_after is None:
        return ()
    delay = Duration()
    delay.FromNanoseconds(int(1e9 * error.retry_after))
    code, _ = grpc.StatusCode[error.grpc_status].value
    status = Status(code=code, message=message)
    status.details.add().Pack(RetryInfo(retry_delay=delay))
    return ((STATUS_METADATA_KEY, status.SerializeToString()),)
