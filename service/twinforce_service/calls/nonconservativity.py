"""Measure how far the forces of a model are from being a gradient, by evaluating a Jacobian."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from twinforce_proto import (
    DeadlineExceededError,
    Nonconservativity,
    NonconservativityRequest,
    OverloadedError,
    SystemTooLargeError,
    Timings,
)
from twinforce_proto.jacobian import measure
from twinforce_service.callers.allowances import Allowances
from twinforce_service.context import caller, connection, request_id, trace, urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.scheduling.request import JacobianRequest, JacobianRows

# Number of calls that may wait for the Jacobian of another call.
_MAX_WAITING = 64
# Seconds after which further calls are advised to try again.
_RETRY_AFTER = 10.0


class Jacobians:
    """Evaluates Jacobians, one at a time, a few rows at a time.

    The rows wait in the queue of the engine like any other request, and the next rows are
    submitted once the last ones are there. So other requests wait for a few rows at most, no rows
    are evaluated for a canceled call, and memory holds only one Jacobian.

    Args:
        engine: Evaluates the rows.
        max_atoms: Number of atoms that a system may have.
        n_rows: Number of rows that are submitted together.
        allowances: Refuses what exceeds the limits of the caller.
    """

    def __init__(self, engine: Engine, max_atoms: int, n_rows: int, allowances: Allowances) -> None:
        self._allowances = allowances
        self._engine = engine
        self._max_atoms = max_atoms
        self._n_rows = n_rows
        self._n_waiting = 0
        self._turn = asyncio.Lock()

    async def nonconservativity(
        self, request: NonconservativityRequest, timeout: float | None
    ) -> Nonconservativity:
        """Return λ and the norms that it is computed from.

        Args:
            request: System and kind of forces.
            timeout: Seconds to wait; None means no limit.

        Raises:
            ServiceError: The system was refused, some rows failed, or the timeout has passed.
        """
        if (n_atoms := len(request.system)) > self._max_atoms:
            text = f"expected at most {self._max_atoms} atoms for a Jacobian, got {n_atoms}"
            raise SystemTooLargeError(text)
        if self._n_waiting > _MAX_WAITING:
            text = f"{_MAX_WAITING} Jacobians are already waiting; try again later"
            raise OverloadedError(text, retry_after=_RETRY_AFTER)
        deadline = None if timeout is None else time.monotonic() + timeout
        n_chunks = -(-3 * n_atoms // self._n_rows)
        with self._allowances.request(caller.get(), n_atoms, n_chunks * n_atoms):
            return await self._wait(request, timeout, deadline)

    async def _wait(
        self, request: NonconservativityRequest, timeout: float | None, deadline: float | None
    ) -> Nonconservativity:
        self._n_waiting += 1
        try:
            async with asyncio.timeout(timeout), self._turn:
                return await self._measure(request, deadline)
        except TimeoutError as error:
            raise DeadlineExceededError(f"not evaluated within {timeout:.3g} s") from error
        finally:
            self._n_waiting -= 1

    async def _measure(
        self, request: NonconservativityRequest, deadline: float | None
    ) -> Nonconservativity:
        n_coordinates = 3 * len(request.system)
        jacobian = np.empty((n_coordinates, n_coordinates))
        timings: list[Timings] = []
        for start in range(0, n_coordinates, self._n_rows):
            rows = range(start, min(start + self._n_rows, n_coordinates))
            answer = await self._evaluate(request, rows, deadline)
            jacobian[rows.start : rows.stop] = answer.values
            timings += [] if answer.timings is None else [answer.timings]
        found = await asyncio.to_thread(measure, jacobian, pairs=request.pairs)
        return replace(found, provenance=answer.provenance, timings=_total(timings))

    async def _evaluate(
        self, request: NonconservativityRequest, rows: range, deadline: float | None
    ) -> JacobianRows:
        pending = JacobianRequest(
            model=request.model,
            system=request.system,
            outputs=frozenset({request.output}),
            deadline=deadline,
            request_id=request_id.get(),
            trace=trace.get(),
            urgency=urgency.get(),
            caller=caller.get(),
            connection=connection.get(),
            rows=rows,
        )
        await self._submit(pending)
        return await asyncio.wrap_future(pending.future)

    async def _submit(self, pending: JacobianRequest) -> None:
        """Submit rows; if the queue is full, refuse the first rows but wait with later ones."""
        while True:
            try:
                return self._engine.submit([pending])
            except OverloadedError as error:
                if pending.rows.start == 0:
                    raise
                await asyncio.sleep(error.retry_after or 0.0)


def _total(timings: Sequence[Timings]) -> Timings:
    return Timings(
        queue_s=sum(each.queue_s for each in timings),
        compute_s=sum(each.compute_s for each in timings),
        batch_n_systems=1,
        batch_n_atoms=timings[0].batch_n_atoms if timings else 0,
        queue_n_atoms=timings[-1].queue_n_atoms if timings else None,
    )
