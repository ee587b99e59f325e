"""A cluster's authority, and the mesh folders of its members, as tests need them."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stoker.certificates import Authority, new_key_and_request

NOW = datetime.now(UTC)


def enrol(
    folder: Path, holder: str, authority: Authority, *, now: datetime = NOW, known: Authority | None = None
) -> str:
    """Gives `holder` a key and a certificate in its folder; `known`: whom it believes. Returns the serial."""
    key, request = new_key_and_request(holder)
    issued = authority.issue(request, holder, now, timedelta(hours=24))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    put(folder / "key.pem", key)
    put(folder / "authority.pem", (known or authority).certificate)
    put(folder / "certificate.pem", issued.certificate)
    return issued.serial


def revoke(folder: Path, *serials: str) -> None:
    put(folder / "revoked.json", json.dumps(serials))


def put(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
