"""multipart/form-data (RFC 7578), as far as the one route needs it that takes a file. Pure."""

import re
from dataclasses import dataclass

from api.openai.errors import invalid_request

MAX_PARTS = 64
_MAX_HEAD = 4096

_BOUNDARY = re.compile(
    rb"""\bboundary=(?:"([\x21\x23-\x7e ]{1,70})"|([\x21\x23-\x2b\x2d-\x3a\x3c-\x7e]{1,70}))""", re.I
)
_NAME = re.compile(rb'(?:^|[;\s])name="([^"\r\n]{1,100})"', re.I)
_FILENAME = re.compile(rb'[;\s]filename\*?="?', re.I)


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form."""

    name: str
    value: bytes
    is_file: bool


def parse_form(content_type: bytes, body: bytes) -> list[Part]:
    """The parts of a form, in their order. Raises APIError (400) where it is none, or is not whole."""
    kind = content_type.partition(b";")[0].strip().lower()
    boundary = _BOUNDARY.search(content_type)
    if kind != b"multipart/form-data" or boundary is None:
        raise invalid_request("The body must be multipart/form-data, and its content-type must name the boundary.")
    mark = b"--" + (boundary[1] or boundary[2])
    parts: list[Part] = []
    if not body.startswith(mark + b"\r\n"):
        raise invalid_request("The form does not begin with its boundary.")
    at = len(mark) + 2
    while True:
        end = body.find(b"\r\n" + mark, at)
        if end < 0:
            raise invalid_request("The form is not whole: its last boundary is missing.")
        parts.append(_part(body, at, end))
        if len(parts) > MAX_PARTS:
            raise invalid_request(f"The form has more than {MAX_PARTS} fields.")
        at = end + 2 + len(mark)
        if body.startswith(b"--", at):
            return parts
        if not body.startswith(b"\r\n", at):
            raise invalid_request("The form is not valid: a boundary is followed by neither a line break nor its end.")
        at += 2


def _part(body: bytes, start: int, end: int) -> Part:
    head_end = body.find(b"\r\n\r\n", start, min(start + _MAX_HEAD, end))
    if head_end < 0:
        raise invalid_request("The form is not valid: a field has no head.")
    for line in body[start:head_end].split(b"\r\n"):
        header, _, value = line.partition(b":")
        if header.strip().lower() == b"content-disposition" and (name := _NAME.search(value)):
            is_file = _FILENAME.search(value) is not None
            return Part(name[1].decode("utf-8", "replace"), body[head_end + 4 : end], is_file)
    raise invalid_request("The form is not valid: a field has no name.")
