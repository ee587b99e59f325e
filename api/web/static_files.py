"""Styles and scripts, read once, under names that have a hash of their content in them."""

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Response

from api.errors import not_found
from api.web.headers import HEADERS, KEPT_FOR_GOOD

FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


class _File(NamedTuple):
    address: str
    content: bytes
    media_type: str


def _read() -> dict[str, _File]:
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            hashed = f"{path.stem}.{sha256(content).hexdigest()[:12]}{path.suffix}"
            found[path.name] = _File(f"/static/{hashed}", content, _TYPES[path.suffix])
    return found


_BY_NAME = _read()
_BY_ADDRESS = {file.address: file for file in _BY_NAME.values()}

router = APIRouter()


def static(name: str) -> str:
    """Where a browser finds the file `name` of `static/`."""
    return _BY_NAME[name].address


@router.get("/static/{name}", include_in_schema=False)
async def get_static(name: str) -> Response:
    """One of the files. Nobody needs to be signed in for it: they are the same for all."""
    file = _BY_ADDRESS.get(f"/static/{name}")
    if file is None:
        raise not_found("file", name)
    return Response(file.content, media_type=file.media_type, headers={**HEADERS, **KEPT_FOR_GOOD})
