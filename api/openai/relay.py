"""An engine's answer on its way to the client: whole, or as a stream of events."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from api.openai.admission import BYTES_PER_TOKEN
from api.openai.answers import whole_answer
from api.openai.call import JSON, Call, ClientGoneError, ClientWatch
from api.openai.connection import DeadlineError, MalformedError, UpstreamError
from api.openai.endpoints import Endpoint
from api.openai.engine_errors import translate_event
from api.openai.errors import APIError, Header, engine_failed, engine_timed_out
from api.openai.exchange import Exchange
from api.openai.metering import Meter, Usage, usage_of, usage_of_events, usage_of_stream
from api.openai.sse import EventCutter, error_at, is_last, stream_shape
from api.openai.validation import EngineRequest

_MISSHAPEN = (ValueError, TypeError, AttributeError, LookupError)
"""What comes of setting an answer right that is of another form than every engine's: that is the engine's fault."""

_TAIL_BLOCKS = 3  # usage stands in the last event or the one before, each of which may come by itself

_EVENT_STREAM: list[Header] = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(slots=True)  # not frozen: that takes a microsecond for each
class Job:
    """One request on its way through the proxy."""

    call: Call
    endpoint: Endpoint
    request: EngineRequest
    meter: Meter
    watch: ClientWatch
    deadline: float  # of the event loop's clock
    renamed: tuple[bytes, bytes] | None = None  # how the engine names the model in its answer, and how the client does


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
    headers = [(b"content-type", exchange.header(b"content-type") or JSON[1])]
    if size <= limit:
        if job.renamed is not None:
            body = body.replace(*job.renamed)
        answer = _whole(job, body)
        begun()
        job.meter.usage = usage_of(body)
        job.meter.status = exchange.status
        await job.call.reply(exchange.status, answer, headers)
        return
    begun()
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
    job.meter.status = exchange.status
    await job.call.write(tail, more=False)


async def relay_stream(job: Job, exchange: Exchange, begun: Callable[[], None]) -> APIError | None:
    """Passes on a stream, event by event, or all of it as one piece. `begun` is called when the first of it is there.

    Returns the error with which the engine itself ended it afterwards, which the client was told, or None.
    Raises UpstreamError or APIError before. What goes wrong afterwards ends the stream with an error event, and raises
    BrokenOffError or ClientGoneError.
    """
    stream = _Stream(job, exchange)
    events: bytes | None = b""
    try:
        while events == b"":  # so far nothing that is for clients
            events = await stream.next_events()
    finally:
        if job.request.assembled and stream.whole:
            job.meter.usage = stream.usage()
        elif job.request.assembled and job.watch.gone:  # else nothing of it is the client's, as of any broken answer
            job.meter.usage = stream.usage_so_far()
    if events is None and stream.failure is not None:
        raise stream.failure
    if job.request.assembled:
        answer = _whole(job, events or b"")
        begun()
        job.meter.status = 200
        await job.call.reply(200, answer, [JSON])
        await _drain(exchange)
        return None
    begun()
    failure, broken, waiting = None, None, True
    try:
        await job.call.begin(200, _EVENT_STREAM)
        while events is not None and not stream.whole:
            if events:
                if waiting and b"data: " in events:  # not a comment, of which llama-server sends one each 30 s
                    waiting = False
                    job.meter.first_token()
                await job.call.write(events)
            events = await stream.next_events()
        failure = stream.failure
        if waiting and events:
            job.meter.first_token()
    except UpstreamError as error:
        broken = _gone_or_broken(job, error)
        if isinstance(broken, ClientGoneError):
            raise broken from error
        failure = _failure_of(error)
    finally:  # cancelled, perhaps: this process stops
        job.meter.usage = stream.usage() if stream.whole else stream.usage_so_far()
    job.meter.status = 200 if failure is None else failure.status
    job.watch.close()  # the client has all that it waits for: its going no longer ends anything
    if failure is not None:
        await job.call.write(failure.event(named=job.endpoint.has_named_events), more=False)
    else:
        await job.call.write(events or b"", more=False)
        await _drain(exchange)
    if broken is not None:
        raise broken
    return failure


def _whole(job: Job, body: bytes) -> bytes:
    """A whole answer as it is to be sent. Raises MalformedError."""
    try:
        return whole_answer(job.endpoint, job.request, body)
    except _MISSHAPEN as error:
        raise MalformedError(f"the engine's answer is misshapen: {error}") from error


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
        self._shape = stream_shape(job.endpoint, job.request)
        self._first = b""
        self._tail: deque[bytes] = deque(maxlen=_TAIL_BLOCKS)
        self._summed = Usage()
        self._count = 0  # of events
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
        if self._job.renamed is not None:
            events = events.replace(*self._job.renamed)
        at = error_at(events, self._job.endpoint)
        said, events = (events[at:], events[:at]) if at >= 0 else (b"", events)
        self.whole = is_last(events, self._job.endpoint)
        if said and not self.whole:
            self.failure = translate_event(said, model=self._job.request.model)
        if not self._first and b"data: " in events:  # not a comment, which says nothing of usage
            self._first = events
        self._tail.append(events)
        self._count += events.count(b"\n\n")
        if self._several and (b'"timings":{' in events or b'"usage":{' in events):
            self._summed = self._summed.plus(usage_of_events(events))
        try:
            return self._shape(events)
        except _MISSHAPEN as error:
            raise MalformedError(f"the engine's events are misshapen: {error}") from error

    def usage(self) -> Usage | None:
        """The tokens of all that came."""
        if self._several:
            return self._summed._replace(input=self._summed.input // self._job.request.choices)
        return usage_of_stream(self._first, b"".join(self._tail))

    def usage_so_far(self) -> Usage:
        """The tokens of a stream that is not whole, about: engines send an event for each, and the sums at the end."""
        said = self.usage()
        if said is not None and said.output:
            return said
        return Usage(self._job.request.prompt_size // BYTES_PER_TOKEN, self._count)


def _failure_of(error: UpstreamError) -> APIError:
    if isinstance(error, DeadlineError):
        return engine_timed_out(f"The answer broke off: {error}.")
    return engine_failed(f"The answer broke off: {error}.")
