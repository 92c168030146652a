"""A service in a thread of this process, for tests and notebooks."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from twinforce_service.main import LoadModels, Ready, serve
from twinforce_service.settings import Settings

if TYPE_CHECKING:  # torch is loaded only where models are: in the process of an engine
    pass


def run_in_thread(settings: Settings, load_models: LoadModels | None = None) -> "RunningServer":
    """Start a service in a thread of this process, and return once it accepts requests.

    Args:
        settings: What to serve, and where.
        load_models: Gives what is served instead of the models that the settings name.

    Raises:
        OSError: A port cannot be listened on.
        ModelLoadError: A model cannot be loaded.
    """
    started: Future[tuple[Ready, Callable[[], object]]] = Future()
    ended: Future[None] = Future()

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        tell: Callable[[], object] = partial(loop.call_soon_threadsafe, stop.set)
        await serve(settings, stop, lambda ready: started.set_result((ready, tell)), load_models)

    def run_and_report() -> None:
        try:
            asyncio.run(run())
        except Exception as error:
            (ended if started.done() else started).set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run_and_report, name="twinforce-server", daemon=True).start()
    ready, tell = started.result()
    return RunningServer(ready.rest_url, ready.grpc_url, tell, ended)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A service in a thread of this process; a context manager that stops it.

    Attributes:
        rest_url: Such as "http://127.0.0.1:8000".
        grpc_url: Such as "grpc://127.0.0.1:8001".
    """

    rest_url: str
    grpc_url: str
    _tell: Callable[[], object]
    _ended: Future[None]

    def stop(self) -> None:
        """Finish what was accepted, then stop.

        Raises:
            UnavailableError: The engine had died.
        """
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._tell()
        self._ended.result()

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
