"""The agent's side of the API: joining and reporting."""

from pathlib import Path
from typing import TypeVar

import httpx
import structlog
from pydantic import ValidationError

from stoker.certificates import CertificateError, fingerprint_of
from stoker.domain.base import Value
from stoker.domain.reports import (
    AuthorityAnswer,
    CertificateAnswer,
    CertificateRequest,
    JoinAnswer,
    ReportAnswer,
    WorkerReport,
)
from stoker.private_files import write_private
from stoker.secrets import one_time_token

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


class RemovedError(Exception):
    """An administrator removed this worker from the cluster."""


class CertificateRefusedError(Exception):
    """The server gives this worker no certificate now; the message says why."""


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
        """Joins with the token. Raises JoinRefusedError, ServerAwayError.

        A token that names its cluster's authority is shown to no server with another one.
        """
        if not self._join_token:
            raise JoinRefusedError(
                "no join token: `stoker workers token` makes one on the server; give it by --join-token-file, or set "
                "STOKER_WORKER__JOIN_TOKEN_FILE"
            )
        if (expected := self.expected_authority) is not None:
            await self._check_authority(expected)
        response = await self._post("join", report.model_dump_json(), self._join_token)
        if response.status_code in (401, 403, 409, 422):
            raise JoinRefusedError(_detail(response))
        self._identity = _read_answer(response, JoinAnswer)
        _write(self._identity_file, self._identity)
        return self._identity

    async def report(self, report: WorkerReport) -> ReportAnswer:
        """Says how the worker is; learns what may run on it. Raises NotJoinedError, RemovedError, ServerAwayError."""
        return _read_answer(await self._post_as_worker("report", report), ReportAnswer)

    async def certificate(self, request: str) -> CertificateAnswer:
        """A certificate for the key of `request` (PEM).

        Raises NotJoinedError, RemovedError, CertificateRefusedError, ServerAwayError.
        """
        response = await self._post_as_worker("certificate", CertificateRequest(request=request))
        if response.status_code in (422, 429):
            raise CertificateRefusedError(_detail(response))
        return _read_answer(response, CertificateAnswer)

    @property
    def expected_authority(self) -> str | None:
        """The fingerprint of the authority that the join token names; None where it names none."""
        token = one_time_token(self._join_token)
        return token.fingerprint if token is not None else None

    def forget(self) -> None:
        """Forgets what joining gave. Raises OSError."""
        self._identity = None
        self._identity_file.unlink(missing_ok=True)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _check_authority(self, expected: str) -> None:
        try:
            response = await self._client.get("/authority")
        except httpx.HTTPError as error:
            raise self._away(error) from error
        given = _read_answer(response, AuthorityAnswer).certificate
        try:
            found = fingerprint_of(given)
        except CertificateError as error:
            raise ServerAwayError(f"what answers at {response.url} is no API of Stoker's") from error
        if found != expected:
            raise JoinRefusedError(
                f"the server at {self._client.base_url} is not of the cluster that made the join token: the token "
                f"names the authority {expected}, the server's is {found}"
            )

    async def _post_as_worker(self, what: str, body: Value) -> httpx.Response:
        if self._identity is None:
            raise NotJoinedError("this worker has not joined yet")
        response = await self._post(what, body.model_dump_json(), self._identity.credential)
        if response.status_code == 401:
            if _code(response) == "worker_removed":
                raise RemovedError(_detail(response))
            raise NotJoinedError(_detail(response), replaced=_code(response) == "worker_replaced")
        return response

    async def _post(self, what: str, body: str, secret: str) -> httpx.Response:
        try:
            return await self._client.post(
                f"/workers/{self._worker}/{what}",
                content=body,
                headers={"authorization": f"Bearer {secret}", "content-type": "application/json"},
            )
        except httpx.HTTPError as error:
            raise self._away(error) from error

    def _away(self, error: httpx.HTTPError) -> ServerAwayError:
        return ServerAwayError(f"the API at {self._client.base_url} does not answer: {error!r}")


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
    # The token that it was got for is used up: a power cut shall not leave an empty file.
    write_private(path, identity.model_dump_json(), synced=True)
