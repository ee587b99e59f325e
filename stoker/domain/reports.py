"""What an agent and the API tell each other: joining, and the report every few seconds."""

from pydantic import Field

from stoker.domain.base import Bytes, InstanceId, Value
from stoker.domain.statuses import Progress
from stoker.domain.workers import Worker

REPORT_EVERY_SECONDS = 5.0
"""How often an agent reports when nothing changes."""


class CertificateRequest(Value):
    """A worker asks for (another) certificate of its identity in the mesh. PEM of a PKCS #10 request."""

    request: str


class CertificateAnswer(Value):
    """PEM: the worker's certificate, and the authority's, against which it knows the others."""

    certificate: str
    authority: str


class AuthorityAnswer(Value):
    """The cluster's authority, for everybody. PEM, and SHA-256 of the certificate (DER) in hexadecimal."""

    certificate: str
    fingerprint: str


class JoinAnswer(Value):
    """What a worker gets for its join token: kept by the agent in a file only it can read."""

    credential: str
    engine_secret: str
    labels: dict[str, str] = Field(default_factory=dict)  # of the token that it joined with: they come before its own


class HeldIncarnation(Value):
    """An incarnation that holds claims on the worker: its processes are rightly there."""

    instance_id: InstanceId
    incarnation: int


class StoredFile(Value):
    """A model's file (or the part of it that has come) on a worker's disk."""

    model: str  # the key of the model that it is of (`ModelFiles.key`)
    path: str  # inside the repository
    size: Bytes
    done: Bytes  # of it on disk
    used_at: float | None = None  # Unix seconds of the last use that is known
    in_use: bool = False  # a process of Stoker's has it open, or a download writes it
    own: bool = True  # fetched by Stoker; False: found in the user's hub cache, and never evicted by itself


class WorkerReport(Value):
    """A worker as its agent sees it now, and how far its instances have come.

    `settled`: False of an agent that was away and has not yet ended what is no longer its own: it asks what is, and
    gets nothing new before it is settled. `running`: every incarnation of which it has a process; None: not told.
    `answered`: the version of the last answer that it had when it looked at what runs; None: it had none.
    `files`: None where nothing changed since the last report that was taken.
    """

    worker: Worker
    progress: dict[InstanceId, Progress] = Field(default_factory=dict)
    settled: bool = True
    running: tuple[HeldIncarnation, ...] | None = None
    answered: int | None = None
    files: tuple[StoredFile, ...] | None = None


class ReportAnswer(Value):
    """All that may run on the worker. A process of anything else, started before the report was sent, is left over.

    `version` changes whenever the claims on the worker do: a report that repeats it was made after they last did.
    `revoked`: serials of the certificates that hold no more though they have not expired.
    """

    held: tuple[HeldIncarnation, ...]
    version: int = 0
    revoked: tuple[str, ...] = ()
