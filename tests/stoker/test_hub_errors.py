"""What the library raises becomes a code, a sentence, and whether trying again may help."""

import httpx2
import pytest
from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

from stoker.hub_errors import HUB_FAILURES, hub_error

SIGNED = "https://content.example/file?Signature=secret"


def answered(status: int) -> HfHubHTTPError:
    response = httpx2.Response(status, request=httpx2.Request("GET", SIGNED))
    return HfHubHTTPError(f"{status} for url {SIGNED}", response=response)


@pytest.mark.parametrize(
    ("error", "code", "retryable", "message"),
    [
        (answered(400), "hub_unavailable", False, "answered 400 Bad Request; check HF_ENDPOINT"),
        (answered(401), "access_denied", False, r"refuses access \(401\): set HF_TOKEN on the worker"),
        (answered(403), "access_denied", False, r"refuses access \(403\)"),
        (answered(408), "hub_unavailable", True, "408 Request Timeout$"),
        (answered(429), "hub_unavailable", True, "429 Too Many Requests$"),
        (answered(500), "hub_unavailable", True, "500 Internal Server Error$"),
        (answered(504), "hub_unavailable", True, "504 Gateway Timeout$"),
        (httpx2.ConnectTimeout("timed out"), "hub_unavailable", True, "cannot be reached: ConnectTimeout timed out"),
        (httpx2.ReadError(""), "hub_unavailable", True, "cannot be reached: ReadError$"),
        (httpx2.UnsupportedProtocol("no scheme"), "hub_unavailable", False, "UnsupportedProtocol no scheme"),
        (httpx2.TooManyRedirects("round"), "hub_unavailable", False, "TooManyRedirects round"),
        (FileMetadataError("no etag"), "hub_unavailable", False, "does not answer as a Hugging Face hub does"),
        (OfflineModeIsEnabled("off"), "hub_unavailable", False, "HF_HUB_OFFLINE is set on the worker"),
    ],
)
def test_each_is_told(error: Exception, code: str, retryable: bool, message: str) -> None:
    assert isinstance(error, HUB_FAILURES)
    told = hub_error(error, repo="acme/tiny", endpoint="https://hub.example", asker="worker")
    assert (told.code, told.retryable) == (code, retryable)
    with pytest.raises(type(told), match=message):
        raise told
    assert "Signature" not in str(told)
