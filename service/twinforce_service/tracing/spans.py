"""The spans of calls and of batches.

Only calls that are traced have spans; for all others, a decision is made and nothing else. What an
engine process does is told by its reports, so that it needs no packages for tracing.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from threading import Thread

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from twinforce_service.context import request_id, trace, trace_parent
from twinforce_service.engine.report import BatchReport

_NANOSECONDS = 1e9
# Seconds that the last spans have to reach the collector when the service stops.
_LAST_SPANS_S = 2.0
_INTERVAL_S = 0.02


class CallTraces:
    """Records the spans of some calls, and of the batches that answer them.

    Args:
        provider: Exports spans; it must sample all of them.
        share: Share of the calls that are recorded among those whose callers do not say.
        draw: Returns a random number from 0 to 1.
    """

    def __init__(
        self,
        provider: TracerProvider,
        share: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("twinforce")
        self._share = share
        self._draw = draw

    def begin(self, transport: str, call: str) -> "RecordedCall | None":
        """Begin the span of a call, unless it is not recorded.

        Args:
            transport: Name of the transport.
            call: Name of the call.
        """
        parent = trace_parent.get()
        if not (_is_sampled(parent) if parent else self._draw() < self._share):
            return None
        attributes = {"twinforce.transport": transport, "twinforce.request_id": request_id.get()}
        span = self._tracer.start_span(
            f"twinforce {call}", _inside(parent), SpanKind.SERVER, attributes
        )
        trace.set(_text_of(span.get_span_context()))
        return RecordedCall(span)

    def observe_batch(self, report: BatchReport) -> None:
        """Record a batch, and the part that each of the recorded calls has in it."""
        calls: dict[str, list[float]] = {}
        for parent, waited in report.traces:
            calls.setdefault(parent, []).append(waited)
        began, ended = _since_1970(report.began, report.began + report.compute_s)
        batch = self._tracer.start_span(
            "batch",
            Context(),
            attributes={
                "twinforce.model": report.model,
                "twinforce.n_systems": report.n_systems,
                "twinforce.n_atoms": report.n_atoms,
                "twinforce.held_s": report.held_s,
            },
            links=[Link(_span_of(parent)) for parent in calls],
            start_time=began - round(_NANOSECONDS * report.held_s),
        )
        for parent, waits in calls.items():
            self._record_part(parent, waits, began, ended, batch.get_span_context())
        batch.end(ended)

    def _record_part(
        self, parent: str, waits: Sequence[float], began: int, ended: int, batch: SpanContext
    ) -> None:
        """Record that systems of a call waited, and were evaluated in a batch."""
        context = _inside(parent)
        attributes = {"twinforce.n_systems": len(waits)}
        submitted = began - round(_NANOSECONDS * max(waits))
        self._tracer.start_span("queue", context, attributes=attributes, start_time=submitted).end(
            began
        )
        self._tracer.start_span(
            "evaluation", context, attributes=attributes, links=[Link(batch)], start_time=began
        ).end(ended)

    async def close(self) -> None:
        """Send what is left, as far as the collector takes it within a moment."""
        loop = asyncio.get_running_loop()
        closing = Thread(target=self._provider.shutdown, name="twinforce-traces", daemon=True)
        closing.start()
        gives_up_at = loop.time() + _LAST_SPANS_S
        while closing.is_alive() and loop.time() < gives_up_at:
            await asyncio.sleep(_INTERVAL_S)


class RecordedCall:
    """The span of a call that is recorded.

    Args:
        span: The span.
    """

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, model: str, outcome: str) -> None:
        """End the span.

        Args:
            model: Name of the model, empty if the call is for none.
            outcome: "ok", or the class of the error.
        """
        trace.set("")
        self._span.set_attributes({"twinforce.model": model, "twinforce.outcome": outcome})
        if outcome != "ok":
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(Status(StatusCode.ERROR, outcome))
        self._span.end()


def _is_sampled(parent: str) -> bool:
    """Return True if the caller records the trace that a span belongs to."""
    return bool(int(parent[-2:], 16) & TraceFlags.SAMPLED)


def _span_of(text: str) -> SpanContext:
    """Return the span that a text in the form of W3C Trace Context names."""
    _, trace_id, span_id, flags = text.split("-")
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )


def _inside(parent: str) -> Context:
    """Return the context of spans inside another one; of a new trace if there is none."""
    if not parent:
        return Context()
    return set_span_in_context(NonRecordingSpan(_span_of(parent)), Context())


def _text_of(span: SpanContext) -> str:
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def _since_1970(*times: float) -> list[int]:
    """Return times on the clock of `time.monotonic`, in s, as nanoseconds since 1970."""
    # The thread may lose the processor between two looks at clocks, and hardly three times.
    _, offset = min(_offset() for _ in range(3))
    return [offset + round(_NANOSECONDS * each) for each in times]


def _offset() -> tuple[int, int]:
    """Return the uncertainty of the difference of both clocks, and the difference, in ns."""
    before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return after - before, now - (before + after) // 2
