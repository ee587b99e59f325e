"""A remote file, read at any offset by HTTP range requests."""

import time
from collections.abc import Mapping
from http import HTTPStatus

from huggingface_hub import constants, get_session, hf_raise_for_status

from stoker.domain.units import KIB, MIB
from stoker.model_source_error import ModelSourceError

FIRST_BLOCK = 512 * KIB
LARGEST_BLOCK = 8 * MIB


class RangeSource:
    """Satisfies `gguf_header.ByteSource`. Reads ahead, in blocks that double from FIRST_BLOCK to LARGEST_BLOCK.

    A header is a few KiB or, with a large vocabulary, some MiB, and its end is known only when it is reached: doubling
    keeps both the requests and what is read in vain few. `deadline` (of `time.monotonic`) bounds all reads together.
    """

    def __init__(self, url: str, size: int, *, headers: Mapping[str, str], deadline: float) -> None:
        self.size = size
        self._url = url
        self._headers = {**headers, "Accept-Encoding": "identity"}  # a packed body has other offsets
        self._deadline = deadline
        self._ahead = FIRST_BLOCK
        self._start, self._block = 0, b""

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes at `offset`; fewer only where the file ends.

        Raises what the HTTP session raises, and ModelSourceError at the deadline.
        """
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        if not (self._start <= offset and end <= self._start + len(self._block)):
            last = min(max(end, offset + self._ahead), self.size)
            self._start, self._block = offset, self._fetch(offset, last)
            self._ahead = min(2 * self._ahead, LARGEST_BLOCK)
        return self._block[offset - self._start : end - self._start]

    def _fetch(self, start: int, end: int) -> bytes:
        headers = {**self._headers, "Range": f"bytes={start}-{end - 1}"}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", self._url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            # A server that knows no ranges sends the whole file: what comes before is skipped, what comes after left.
            skip = 0 if response.status_code == HTTPStatus.PARTIAL_CONTENT else start
            received = bytearray()
            for chunk in response.iter_bytes():
                received += chunk[skip:]
                skip = max(0, skip - len(chunk))
                if len(received) >= end - start:
                    break
                if time.monotonic() > self._deadline:
                    message = f"{self._url} is too slow: its header was not read in time"
                    raise ModelSourceError("hub_unavailable", message, retryable=True)
        if len(received) < end - start:
            message = (
                f"{self._url} ends at byte {start + len(received)}, before the {self.size} bytes it is listed with"
            )
            raise ModelSourceError("hub_unavailable", message, retryable=True)
        return bytes(received[: end - start])
