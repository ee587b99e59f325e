"""The agent's side of the API: joining and reporting."""

import json
import os
from pathlib import Path
from typing import TypeVar

import httpx
import structlog
from pydantic import ValidationError

from stoker.domain.base import Value
from stoker.domain.reports import JoinAnswer, ReportAnswer, WorkerReport

log = structlog.get_logger()

Answer = TypeVar("Answer", bound=Value)

_TIMEOUT_SECONDS = 10.0


class JoinRefusedError(Exception):
    """The join token is wrong, or the server does not accept this worker: trying again cannot help."""


class NotJoinedError(Exception):
    """The server does not know this worker's credential (any more): it must join again.

    `replaced`: because another agent has joined under its name since.
    """

    def __init__(self, message: str, *, replaced: bool = False) -> None:
        super().__init__(message)
        self.replaced = replaced


class ServerAwayError(Exception):
    """The API does not answer, or not as it should; worth another try."""


class ControlApi:
    """One worker's calls. The credential it got is kept in a file that only its user can read."""

    def __init__(self, url: str, worker: str, join_token: str, identity_file: Path) -> None:
        # With a transport of its own the client leaves out the environment's proxies: they are for the hub, not for us.
        self._client = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/api/v1", timeout=_TIMEOUT_SECONDS, transport=httpx.AsyncHTTPTransport()
        )
        self._worker, self._join_token, self._identity_file = worker, join_token, identity_file
        self._identity = _read(identity_file)

    @property
    def identity(self) -> JoinAnswer | None:
        """What joining gave, now or in an earlier life of the agent; None before."""
        return self._identity

    async def join(self, report: WorkerReport) -> JoinAnswer:
        """Joins with the token. Raises JoinRefusedError, ServerAwayError."""
        if not self._join_token:
            raise JoinRefusedError(
                "no join token: set STOKER_WORKER__JOIN_TOKEN_FILE to the server's `join-token` file"
            )
        response = await self._post("join", report, self._join_token)
        if response.status_code in (401, 403, 422):
            raise JoinRefusedError(_detail(response))
        self._identity = _read_answer(response, JoinAnswer)
        _write(self._identity_file, self._identity)
        return self._identity

    async def report(self, report: WorkerReport) -> ReportAnswer:
        """Says how the worker is; learns what may run on it. Raises NotJoinedError, ServerAwayError."""
        if self._identity is None:
            raise NotJoinedError("this worker has not joined yet")
        response = await self._post("report", report, self._identity.credential)
        if response.status_code == 401:
            raise NotJoinedError(_detail(response), replaced=_code(response) == "worker_replaced")
        return _read_answer(response, ReportAnswer)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _post(self, what: str, report: WorkerReport, secret: str) -> httpx.Response:
        try:
            return await self._client.post(
                f"/workers/{self._worker}/{what}",
                content=report.model_dump_json(),
                headers={"authorization": f"Bearer {secret}", "content-type": "application/json"},
            )
        except httpx.HTTPError as error:
            raise ServerAwayError(f"the API at {self._client.base_url} does not answer: {error!r}") from error


def _read_answer(response: httpx.Response, kind: type[Answer]) -> Answer:
    if response.status_code != 200:
        raise ServerAwayError(f"the API answered {response.status_code}: {_detail(response)}")
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise ServerAwayError(f"what answers at {response.url} is no API of Stoker's") from error


def _code(response: httpx.Response) -> str:
    try:
        return str(response.json()["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def _read(path: Path) -> JoinAnswer | None:
    try:
        return JoinAnswer.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("identity_file_unreadable", path=str(path))
        return None


def _write(path: Path, identity: JoinAnswer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_suffix(".new")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(identity.model_dump(), file)
    scratch.replace(path)
