"""The least that a request over HTTP can cost: an application that reads a body and answers bytes.

    python -m bench.http_echo BYTES

listens on a free port, as the service does (uvicorn, httptools), prints it, and answers every
request with that many bytes.
"""

import sys
from typing import Any

import uvicorn

from twinforce_service.transports.ports import listen


class Echo:
    """An ASGI application.

    Args:
        n_bytes: Of every answer.
    """

    def __init__(self, n_bytes: int) -> None:
        self._body = bytes(n_bytes)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request once its body is there."""
        assert scope["type"] == "http"
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-length", str(len(self._body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


def main() -> None:
    """Serve until killed."""
    config = uvicorn.Config(
        Echo(int(sys.argv[1])), lifespan="off", access_log=False, log_level="warning"
    )
    listening = listen("127.0.0.1", 0, "HTTP")
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
