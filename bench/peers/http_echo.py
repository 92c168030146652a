"""An HTTP application without any work: a lower bound on the cost of a request over REST.

    python -m bench.peers.http_echo BYTES

The command listens on a free port as the service does (uvicorn, httptools), prints the port, and
answers every request with BYTES bytes.
"""

import sys
from typing import Any

import uvicorn

from twinforce_service.transports.ports import listen


class HttpEcho:
    """An ASGI application that answers every request with zeros.

    Args:
        n_bytes: Number of bytes in each answer.
    """

    def __init__(self, n_bytes: int) -> None:
        self._body = bytes(n_bytes)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body of a request, then answer."""
        assert scope["type"] == "http"
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-length", str(len(self._body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


def main() -> None:
    """Serve until the process is terminated."""
    config = uvicorn.Config(
        HttpEcho(int(sys.argv[1])), lifespan="off", access_log=False, log_level="warning"
    )
    (listening,) = listen("127.0.0.1", 0, "HTTP")
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
