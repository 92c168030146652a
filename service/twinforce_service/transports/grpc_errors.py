"""Errors over gRPC: a status, and the error in full as trailing metadata."""

from typing import Any, NoReturn

import grpc

from twinforce_proto import ServiceError
from twinforce_proto.codec.messages import ERROR_METADATA_KEY, error_to_proto
from twinforce_proto.errors import clipped
from twinforce_proto.headers import REQUEST_ID
from twinforce_service.context import request_id
from twinforce_service.transports.retry_info import retry_details

# Longer error messages are clipped, in bytes, as the headers of a reply have little space.
_MAX_MESSAGE = 1000


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ServiceError) -> NoReturn:
    """End a call with an error, which trailing metadata describe in full."""
    message = error_to_proto(error)
    message.message = clipped(message.message, _MAX_MESSAGE)
    details = clipped(str(error), _MAX_MESSAGE)
    metadata: tuple[tuple[str, str | bytes], ...] = (
        (ERROR_METADATA_KEY, message.SerializeToString()),
        (REQUEST_ID, request_id.get()),
        *retry_details(error, details),
    )
    status = grpc.StatusCode[error.grpc_status]
    await context.abort(status, details, metadata)
