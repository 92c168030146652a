"""How far the forces of a served model are from being a gradient: one answer from many requests."""

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
from twinforce_service.context import request_id, urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.scheduling.request import JacobianRequest, JacobianRows

# Callers whose Jacobian waits for that of another one.
_MAX_WAITING = 64
# What a caller beyond them is advised to wait, in s.
_RETRY_AFTER = 10.0


class Jacobians:
    """Makes Jacobians, one at a time, a few rows at a time.

    Rows wait in the queue of the engine like any system, and the next ones are submitted when
    they are there: so others wait for a few rows at most, nothing is computed for a caller that
    has gone away, and there is memory for one Jacobian only.

    Args:
        engine: What evaluates the rows.
        max_atoms: Atoms that a system may have.
        n_rows: Rows that are submitted together.
    """

    def __init__(self, engine: Engine, max_atoms: int, n_rows: int) -> None:
        self._engine = engine
        self._max_atoms = max_atoms
        self._n_rows = n_rows
        self._n_waiting = 0
        self._turn = asyncio.Lock()

    async def nonconservativity(
        self, wanted: NonconservativityRequest, timeout: float | None
    ) -> Nonconservativity:
        """Return λ and the norms it is made of; gives up when cancelled.

        Args:
            wanted: Of which system, and what.
            timeout: How long the caller waits, in s; None: until it goes away.

        Raises:
            ServiceError: The system was refused, some rows failed, or time was up.
        """
        if len(wanted.system) > self._max_atoms:
            raise SystemTooLargeError(
                f"expected at most {self._max_atoms} atoms for a Jacobian, got {len(wanted.system)}"
            )
        if self._n_waiting > _MAX_WAITING:
            text = f"{_MAX_WAITING} Jacobians are already waiting; try again later"
            raise OverloadedError(text, retry_after=_RETRY_AFTER)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._n_waiting += 1
        try:
            async with asyncio.timeout(timeout), self._turn:
                return await self._measured(wanted, deadline)
        except TimeoutError as error:
            raise DeadlineExceededError(f"not evaluated within {timeout:.3g} s") from error
        finally:
            self._n_waiting -= 1

    async def _measured(
        self, wanted: NonconservativityRequest, deadline: float | None
    ) -> Nonconservativity:
        n_coordinates = 3 * len(wanted.system)
        jacobian = np.empty((n_coordinates, n_coordinates))
        timings: list[Timings] = []
        for start in range(0, n_coordinates, self._n_rows):
            rows = range(start, min(start + self._n_rows, n_coordinates))
            answer = await self._evaluated(wanted, rows, deadline)
            jacobian[rows.start : rows.stop] = answer.values
            timings += [] if answer.timings is None else [answer.timings]
        found = await asyncio.to_thread(measure, jacobian, pairs=wanted.pairs)
        return replace(found, provenance=answer.provenance, timings=_total(timings))

    async def _evaluated(
        self, wanted: NonconservativityRequest, rows: range, deadline: float | None
    ) -> JacobianRows:
        request = JacobianRequest(
            model=wanted.model,
            system=wanted.system,
            outputs=frozenset({wanted.output}),
            deadline=deadline,
            request_id=request_id.get(),
            urgency=urgency.get(),
            rows=rows,
        )
        await self._submit(request)
        return await asyncio.wrap_future(request.future)

    async def _submit(self, request: JacobianRequest) -> None:
        """Submit; where the queue is full, only the first rows are refused."""
        while True:
            try:
                return self._engine.submit([request])
            except OverloadedError as error:
                if request.rows.start == 0:
                    raise
                await asyncio.sleep(error.retry_after or 0.0)


def _total(timings: Sequence[Timings]) -> Timings:
    return Timings(
        queue_s=sum(each.queue_s for each in timings),
        compute_s=sum(each.compute_s for each in timings),
        batch_n_systems=1,
        batch_n_atoms=timings[0].batch_n_atoms if timings else 0,
    )
