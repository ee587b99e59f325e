"""The OpenAI API's error shape, and the errors that this door itself answers with.

On the wire, on every status: `{"error": {"message", "type", "param", "code"}}`, all four keys, `param` and `code`
nullable. The Anthropic routes get `"type": "error"` beside it, which makes the same object valid for their clients too.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_RETRY_AFTER_SECONDS = 120  # the SDKs take a longer wait as "do not retry"
MAX_MESSAGE_CHARACTERS = 2000

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
RATE_LIMIT = "rate_limit_error"
PERMISSION = "permission_error"

Header = tuple[bytes, bytes]


class APIError(Exception):
    """An answer that is an error. `should_retry` is told to the SDKs when not None; `beside` stands next to `error`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        beside: Mapping[str, Any] | None = None,
        headers: tuple[Header, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.retry_after, self.should_retry = retry_after, should_retry
        self.beside, self._headers = dict(beside or {}), headers

    def body(self, *, anthropic: bool = False) -> bytes:
        """The JSON of this error."""
        error = {
            "message": self.message[:MAX_MESSAGE_CHARACTERS],
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        shape: dict[str, Any] = {"type": "error"} if anthropic else {}
        return json.dumps(shape | {"error": error} | self.beside).encode()

    def event(self, *, named: bool = False) -> bytes:
        """This error as a server-sent event: what ends a stream that has already begun."""
        name = b"event: error\n" if named else b""
        return name + b"data: " + self.body(anthropic=named) + b"\n\n"

    @property
    def headers(self) -> list[Header]:
        """The headers that go with it: when, and whether, to try again."""
        headers = list(self._headers)
        if self.retry_after is not None:
            seconds = min(max(math.ceil(self.retry_after), 1), MAX_RETRY_AFTER_SECONDS)
            headers.append((b"retry-after", b"%d" % seconds))
        if self.should_retry is not None:
            headers.append((b"x-should-retry", b"true" if self.should_retry else b"false"))
        return headers


def invalid_request(message: str, param: str | None = None, code: str | None = None) -> APIError:
    """400: the request cannot be served as it is; `param` names the field."""
    return APIError(400, message, param=param, code=code)


def unsupported_parameter(message: str, param: str) -> APIError:
    """400: a field that this door does not pass on."""
    return APIError(400, message, param=param, code="unsupported_parameter")


def unknown_parameter(name: str, route: str) -> APIError:
    """400: a field that the route does not have."""
    shown = shorten(name, 60)
    return APIError(
        400, f"Unknown parameter: {shown!r}. {route} does not have it.", param=shown, code="unknown_parameter"
    )


def wrong_type(name: str, wanted: str, value: Any) -> NoReturn:
    """Raises the 400 for a field that is something else than it must be."""
    raise invalid_request(f"Invalid {name!r}: it must be {wanted}, not {kind_of(value)}.", name, "invalid_type")


def invalid_api_key(*, given: bool) -> APIError:
    """401: no key, or none that is known. The key itself is never repeated."""
    message = (
        "The API key is not known here, or no longer valid."
        if given
        else "No API key was given: send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'."
    )
    return APIError(401, message, code="invalid_api_key", headers=((b"www-authenticate", b"Bearer"),))


def unknown_url(method: str, path: str) -> APIError:
    """404: no such route."""
    return APIError(404, f"There is no route {method} {shorten(path)}.", code="unknown_url")


def model_not_found(model: str) -> APIError:
    """404: no deployment of that name."""
    message = f"The model {shorten(model)!r} does not exist. GET /v1/models lists those that do."
    return APIError(404, message, param="model", code="model_not_found")


def model_not_allowed(model: str) -> APIError:
    """403: the key is for other models only."""
    message = f"This API key may not use the model {shorten(model)!r}. GET /v1/models lists those that it may."
    return APIError(403, message, type=PERMISSION, param="model", code="model_not_allowed")


def method_not_allowed(method: str, path: str, allowed: str) -> APIError:
    """405: the route exists for other methods."""
    message = f"{path} answers {allowed}, not {method}."
    return APIError(405, message, code="method_not_allowed", headers=((b"allow", allowed.encode()),))


def request_timed_out(seconds: float) -> APIError:
    """408: the client was too slow in sending its request."""
    return APIError(408, f"The request's body was not complete within {seconds:g} s.", code="request_timeout")


def body_too_large(limit: int, *, close: bool = False) -> APIError:
    """413: more bytes than `limit`; `close`: so many more that the rest is not even read."""
    message = f"The request's body is larger than {limit} bytes, the most that is taken here."
    return APIError(413, message, code="request_too_large", headers=((b"connection", b"close"),) if close else ())


def unsupported_encoding(encoding: str) -> APIError:
    """415: a compressed body."""
    message = f"The content-encoding {shorten(encoding)!r} is not supported: send the JSON as it is."
    return APIError(415, message, code="unsupported_content_encoding", headers=((b"accept-encoding", b"identity"),))


def internal_error() -> APIError:
    """500: a fault of this door; the details are in its log, under the request's id."""
    return APIError(500, "The request failed inside the proxy.", type=SERVER_ERROR, code="internal_error")


def engine_failed(message: str, *, should_retry: bool | None = None) -> APIError:
    """502: the engine was reached, or should have been, and gave no usable answer."""
    return APIError(502, message, type=SERVER_ERROR, code="engine_failed", should_retry=should_retry)


def engine_unreachable(model: str) -> APIError:
    """503: the model is deployed and no engine of it takes requests just now."""
    message = f"No engine of the model {model!r} can be reached just now."
    return APIError(503, message, type=SERVER_ERROR, code="engine_unreachable", retry_after=2, should_retry=True)


def engine_timed_out(message: str) -> APIError:
    """504: the engine took longer than it may. Not to be retried: the next try would take as long."""
    return APIError(504, message, type=SERVER_ERROR, code="engine_timeout", should_retry=False)


def shorten(text: str, length: int = 120) -> str:
    """What somebody sent, short enough to be repeated in a message."""
    return text if len(text) <= length else text[: length - 1] + "…"


def kind_of(value: Any) -> str:
    """A JSON value in words, short whatever it is."""
    if isinstance(value, str):
        return f"the string {shorten(value, 40)!r}" if value else "an empty string"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    if isinstance(value, dict):
        return "an object"
    return shorten(json.dumps(value), 40)
