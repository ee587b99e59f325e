"""Why a model that exists cannot answer now. Pure."""

from api.openai.errors import RATE_LIMIT, SERVER_ERROR, APIError, engine_unreachable
from api.openai.router import ModelRoute, ModelState

_LOADING_RETRY_SECONDS = 5
_PENDING_RETRY_SECONDS = 30


def unavailable(route: ModelRoute) -> APIError:
    """The error for a request to `route` while none of its engines takes one."""
    because = f": {route.message}" if route.message else "."
    match route.state:
        case ModelState.READY:
            return engine_unreachable(route.name)
        case ModelState.FAILED:
            return _final(f"The model {route.name!r} could not be started{because}", "model_failed")
        case ModelState.STOPPED if route.autoscaled:
            message = f"The model {route.name!r} sleeps, and starts when it is asked."
            return _loading(route, message, _LOADING_RETRY_SECONDS)
        case ModelState.STOPPED:
            return _final(f"The model {route.name!r} is stopped: it has no replicas{because}", "model_stopped")
        case ModelState.LOADING:
            share = f", {route.progress:.0%}" if route.progress is not None else ""
            where = f" on {route.worker}" if route.worker else ""
            message = f"The model {route.name!r} is loading{where}{share}{because}"
            return _loading(route, message, _LOADING_RETRY_SECONDS)
        case ModelState.PENDING:
            return _loading(route, f"The model {route.name!r} waits for room{because}", _PENDING_RETRY_SECONDS)


def queue_full(name: str, waiting: int, retry_after: float) -> APIError:
    """429: so many requests wait for the model already that no more may; `retry_after` seconds later fewer will."""
    message = (
        f"All slots of the model {name!r} are taken and {waiting} requests wait for one, as many as may."
        if waiting
        else f"All slots of the model {name!r} are taken, and no request may wait for one."
    )
    return APIError(
        429, message, type=RATE_LIMIT, param="model", code="queue_full", retry_after=retry_after, should_retry=True
    )


def _final(message: str, code: str) -> APIError:
    return APIError(503, message, type=SERVER_ERROR, code=code, should_retry=False)


def _loading(route: ModelRoute, message: str, retry_after: float) -> APIError:
    return APIError(
        503,
        message,
        type=SERVER_ERROR,
        param="model",
        code="model_loading",
        retry_after=retry_after if route.eta_seconds is None else route.eta_seconds,
        should_retry=True,
        beside={
            "loading": {
                "state": route.state.value,
                "worker": route.worker,
                "progress": route.progress,
                "eta_seconds": route.eta_seconds,
            }
        },
    )
