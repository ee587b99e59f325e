"""What the hub's library raises, told as a ModelSourceError in words that say what to do.

The library's own messages are not passed on: they may hold signed URLs, and run over many lines.
"""

from http import HTTPStatus

import httpx2
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stoker.model_source_error import ModelSourceError

HUB_FAILURES = (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled, FileMetadataError, HFValidationError)
"""All that a call to the hub may raise for reasons that lie outside this program."""

_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


def is_passing(error: Exception) -> bool:
    """Whether the same request may succeed a moment later: the hub is busy, or the network is."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING
    return isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol)


def hub_error(error: Exception, *, repo: str, endpoint: str, asker: str) -> ModelSourceError:
    """The ModelSourceError for one of HUB_FAILURES; `asker` is who needs the token: "server" or "worker"."""
    page = f"{endpoint}/{repo}"
    match error:
        case GatedRepoError():
            message = (
                f"{page} is gated: accept its terms there, and set HF_TOKEN on the {asker} to that account's token"
            )
            return ModelSourceError("access_denied", message)
        case RepositoryNotFoundError():
            message = f"{endpoint} has no model {repo}; if it is private, set HF_TOKEN on the {asker} to a token for it"
            return ModelSourceError("model_not_found", message)
        case RevisionNotFoundError():
            return ModelSourceError("model_not_found", f"{page} no longer has the revision that was asked for")
        case RemoteEntryNotFoundError():
            return ModelSourceError("file_not_found", f"{page} no longer has the file that was asked for")
        case HfHubHTTPError() if error.response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            message = (
                f"{page} refuses access ({error.response.status_code}): "
                f"set HF_TOKEN on the {asker} to a token that may read it"
            )
            return ModelSourceError("access_denied", message)
        case HfHubHTTPError():
            message = f"{page}: the hub answered {error.response.status_code} {error.response.reason_phrase}"
            message += "" if is_passing(error) else "; check HF_ENDPOINT and the proxy"
        case HFValidationError():
            return ModelSourceError("model_not_found", f"{repo!r} cannot be the name of a model on a hub: {error}")
        case OfflineModeIsEnabled():
            message = f"HF_HUB_OFFLINE is set on the {asker}, and its cache does not hold {repo}"
        case FileMetadataError():
            message = f"{endpoint} does not answer as a Hugging Face hub does: check HF_ENDPOINT and the proxy"
        case _:
            message = f"{endpoint} cannot be reached: {type(error).__name__} {error}".rstrip()
    return ModelSourceError("hub_unavailable", message, retryable=is_passing(error))
