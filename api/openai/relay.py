"""An engine's answer on its way to the client: whole, or as a stream of events."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from api.openai.call import JSON, Call, ClientGoneError, ClientWatch
from api.openai.connection import DeadlineError, MalformedError, UpstreamError
from api.openai.endpoints import Endpoint
from api.openai.engine_errors import translate_event
from api.openai.errors import APIError, Header, engine_failed, engine_timed_out
from api.openai.exchange import Exchange
from api.openai.metering import Meter, Usage, status_class, usage_of, usage_of_events, usage_of_stream
from api.openai.sse import EventCutter, StreamShape, error_at, is_last
from api.openai.validation import EngineRequest

_TAIL_BLOCKS = 3  # usage stands in the last event or the one before, each of which may come by itself

_EVENT_STREAM: list[Header] = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Job:
    """One request on its way through the proxy."""

    call: Call
    endpoint: Endpoint
    request: EngineRequest
    body: bytes
    meter: Meter
    watch: ClientWatch
    deadline: float  # of the event loop's clock


class BrokenOffError(Exception):
    """An answer whose beginning the client has already seen broke off."""

    def __init__(self, cause: UpstreamError) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def relay_whole(job: Job, exchange: Exchange, limit: int, begun: Callable[[], None]) -> None:
    """Passes on an answer that is no stream. Up to `limit` bytes of it are held until it is whole: until then nothing
    has gone to the client, and another engine may be asked. `begun` is called when that is over.

    Raises UpstreamError before, BrokenOffError or ClientGoneError after it.
    """
    pieces, size = [], 0
    while size <= limit and (data := await exchange.read()):
        pieces.append(data)
        size += len(data)
    body = b"".join(pieces)
    begun()
    headers = [(b"content-type", exchange.header(b"content-type") or JSON[1])]
    if size <= limit:
        job.meter.usage = usage_of(body)
        job.meter.outcome = status_class(exchange.status)
        await job.call.reply(exchange.status, body, headers)
        return
    if length := exchange.header(b"content-length"):
        headers.append((b"content-length", length))
    await job.call.begin(exchange.status, headers)
    tail = body
    try:
        while data := await exchange.read():
            await job.call.write(tail)
            tail = data
    except UpstreamError as error:  # the answer stays short of its length: that is how its client sees it
        raise _gone_or_broken(job, error) from error
    job.meter.usage = usage_of(tail) or usage_of(body[:4096])
    job.meter.outcome = status_class(exchange.status)
    await job.call.write(tail, more=False)


async def relay_stream(job: Job, exchange: Exchange, begun: Callable[[], None]) -> None:
    """Passes on a stream, event by event. `begun` is called when the first of them is there.

    Raises UpstreamError or APIError before. What goes wrong afterwards ends the stream with an error event, and raises
    BrokenOffError or ClientGoneError.
    """
    stream = _Stream(job, exchange)
    events: bytes | None = b""
    while events == b"":  # so far nothing that is for clients
        events = await stream.next_events()
    if events is None and stream.failure is not None:
        raise stream.failure
    begun()
    job.meter.first_token()
    await job.call.begin(200, list(_EVENT_STREAM))
    failure, broken = None, None
    try:
        while events is not None and not stream.whole:
            if events:
                await job.call.write(events)
            events = await stream.next_events()
        failure = stream.failure
    except UpstreamError as error:
        broken = _gone_or_broken(job, error)
        if isinstance(broken, ClientGoneError):
            raise broken from error
        failure = _failure_of(error)
    job.meter.usage = stream.usage()
    job.meter.outcome = status_class(200 if failure is None else failure.status)
    job.watch.close()  # the client has all that it waits for: its going no longer ends anything
    if failure is not None:
        await job.call.write(failure.event(anthropic=job.endpoint.anthropic), more=False)
    else:
        await job.call.write(events or b"", more=False)
        await _drain(exchange)
    if broken is not None:
        raise broken


async def _drain(exchange: Exchange) -> None:
    """Waits for the engine's end of the message, so that its connection can be used again."""
    with suppress(UpstreamError):
        while await exchange.read():
            pass


def _gone_or_broken(job: Job, error: UpstreamError) -> ClientGoneError | BrokenOffError:
    return ClientGoneError() if job.watch.gone else BrokenOffError(error)


class _Stream:
    """An engine's stream as blocks of whole events, set right for the client."""

    def __init__(self, job: Job, exchange: Exchange) -> None:
        self.whole = False  # its end mark is there
        self.failure: APIError | None = None  # the engine's own word for why it ended
        self._job, self._exchange = job, exchange
        self._cutter = EventCutter()
        self._shape = StreamShape(job.endpoint, include_usage=job.request.include_usage, choices=job.request.choices)
        self._first = b""
        self._tail: deque[bytes] = deque(maxlen=_TAIL_BLOCKS)
        self._summed = Usage()
        self._several = job.endpoint.usage_in_finish or job.request.choices > 1

    async def next_events(self) -> bytes | None:
        """The next whole events; empty when none is for the client, None after a failure. Raises UpstreamError."""
        if self.failure is not None:
            return None
        events = b""
        while not events:
            data = await self._exchange.read()
            if not data:
                raise MalformedError("the engine ended its stream before it was whole")
            try:
                events = self._cutter.push(data)
            except ValueError as error:
                raise MalformedError(str(error)) from error
        at = error_at(events, self._job.endpoint)
        said, events = (events[at:], events[:at]) if at >= 0 else (b"", events)
        self.whole = is_last(events, self._job.endpoint)
        if said and not self.whole:
            self.failure = translate_event(said, model=self._job.request.model)
        self._first = self._first or events
        self._tail.append(events)
        if self._several and (b'"timings":{' in events or b'"usage":{' in events):
            self._summed = self._summed.plus(usage_of_events(events))
        return self._shape(events)

    def usage(self) -> Usage | None:
        """The tokens of all that came."""
        if self._several:
            return self._summed._replace(input=self._summed.input // self._job.request.choices)
        return usage_of_stream(self._first, b"".join(self._tail))


def _failure_of(error: UpstreamError) -> APIError:
    if isinstance(error, DeadlineError):
        return engine_timed_out(f"The answer broke off: {error}.")
    return engine_failed(f"The answer broke off: {error}.")
