"""The cluster's certificate authority: made once, whoever of several processes comes first; its key is kept sealed."""

from collections.abc import Callable
from datetime import datetime

from sqlmodel import Session

from stoker.certificates import Authority
from stoker.secrets import OtherSecretError, ServerSecret
from stoker.storage.engine import INSERTS, Database
from stoker.storage.tables import AuthorityRow, table_of

_ONLY = 1  # the row's id
_PURPOSE = "private key of the cluster's authority"


class AuthoritySealedError(ValueError):
    """The authority's private key was sealed under another secret than this server's; the message says what to do."""


def cluster_authority(database: Database, secret: ServerSecret, clock: Callable[[], datetime]) -> Authority:
    """The cluster's authority, made now if there is none yet. Raises AuthoritySealedError."""
    with database.read() as session:
        found = _read(session, secret)
    if found is not None:
        return found
    now = clock()
    made = Authority.new(now)
    row = {
        "id": _ONLY,
        "certificate": made.certificate,
        "private_key": secret.seal(made.private_key, purpose=_PURPOSE, bound_to=made.certificate),
        "created_at": now,
    }
    with database.write() as session:
        insert = INSERTS[session.get_bind().dialect.name](table_of(AuthorityRow))
        session.execute(insert.values(row).on_conflict_do_nothing(index_elements=["id"]))  # another was quicker
    with database.read() as session:
        kept = _read(session, secret)
    assert kept is not None  # noqa: S101 - it was written just now, by us or another
    return kept


def _read(session: Session, secret: ServerSecret) -> Authority | None:
    row = session.get(AuthorityRow, _ONLY)
    if row is None:
        return None
    try:
        key = secret.unseal(row.private_key, purpose=_PURPOSE, bound_to=row.certificate)
    except OtherSecretError as error:
        raise AuthoritySealedError(
            "the private key of the cluster's certificate authority was sealed under another secret than this "
            "server's: give the server the secret that it had (STOKER_SECRET, or the file server-secret in its data "
            "folder). If that is lost, delete the row of the table `authority`: a new authority is made, and every "
            "worker must join anew"
        ) from error
    return Authority(certificate=row.certificate, private_key=key)
