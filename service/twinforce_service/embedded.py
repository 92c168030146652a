"""Run a service in a thread of this process, for tests and notebooks."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from twinforce_service.engines import LoadModels
from twinforce_service.main import Ready, serve
from twinforce_service.settings import Settings


def run_in_thread(settings: Settings, load_models: LoadModels | None = None) -> "RunningServer":
    """Start a service in a thread of this process, and return once it accepts requests.

    Args:
        settings: Settings of the service.
        load_models: Returns the models to serve in place of those in the settings.

    Raises:
        OSError: A port cannot be listened on.
        ModelLoadError: A model cannot be loaded.
    """
    started: Future[tuple[Ready, Callable[[], object]]] = Future()
    ended: Future[None] = Future()

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        set_stop: Callable[[], object] = partial(loop.call_soon_threadsafe, stop.set)

        def announce(ready: Ready) -> None:
            started.set_result((ready, set_stop))

        await serve(settings, stop, announce, load_models)

    def run_and_report() -> None:
        try:
            asyncio.run(run())
        except Exception as error:
            (ended if started.done() else started).set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run_and_report, name="twinforce-server", daemon=True).start()
    ready, set_stop = started.result()
    return RunningServer(ready.rest_url, ready.grpc_url, set_stop, ended, ready.metrics_url)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A service in a thread of this process, stopped at the end of a `with` block.

    Attributes:
        rest_url: Address of the REST API, such as "http://127.0.0.1:8000".
        grpc_url: Address of the gRPC API, such as "grpc://127.0.0.1:8001".
        metrics_url: Address of health and metrics, if they have one of their own.
    """

    rest_url: str
    grpc_url: str
    _set_stop: Callable[[], object]
    _ended: Future[None]
    metrics_url: str | None = None

    def stop(self) -> None:
        """Finish all accepted requests, then stop.

        Raises:
            UnavailableError: The engine or the REST server had failed.
        """
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._set_stop()
        self._ended.result()

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
