"""The real engine's answers, as record.py wrote them down."""

from pathlib import Path

FOLDER = Path(__file__).parent / "recorded"
NAMES = sorted(path.stem for path in FOLDER.glob("*.http"))


def recorded(name: str) -> bytes:
    """The whole answer, head and body."""
    return (FOLDER / f"{name}.http").read_bytes()


def recorded_body(name: str) -> bytes:
    """The answer's body, without the framing of chunks."""
    head, _, body = recorded(name).partition(b"\r\n\r\n")
    if b"chunked" not in head:
        return body
    pieces = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        pieces, body = pieces + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return pieces
