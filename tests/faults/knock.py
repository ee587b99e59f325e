"""What a stranger, or a worker that is not asked for, gets at a port. A program: it runs on a host of the network.

    python -m tests.faults.knock knock|ask|stay|flood   (what to do is one JSON object on standard input)

knock   tries all ways of KNOCKS at each of `doors`; prints what came back of each, as JSON
ask     with the identity in the folder `identity`, says each of `lines` to each of `doors`; prints the answers
stay    the same with one line, and stays; then comes again and again: prints a line of JSON for each change
flood   opens `count` connections to each of `doors` and says nothing, until standard input ends
"""

import base64
import datetime
import hashlib
import json
import socket
import ssl
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CONNECT_SECONDS = 2.0
LISTEN_SECONDS = 1.5
SILENT_SECONDS = 7.0  # longer than a handshake may take
MOST_BYTES = 65_536

Door = tuple[str, int]
_COMPLETION = json.dumps({"prompt": "a", "n_predict": 4}).encode()
_PLAIN = {
    "nothing": b"",
    "garbage": hashlib.shake_256(b"garbage").digest(4096),
    "http models": b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    "http slots": b"GET /slots HTTP/1.1\r\nHost: a\r\n\r\n",
    "http completion": b"POST /completion HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_COMPLETION), _COMPLETION),
    "rpc hello": struct.pack("<BQ", 14, 24) + bytes(24),  # ggml-rpc: the command, the size of what follows
    "rpc memory": struct.pack("<BQ", 11, 4) + bytes(4),
    "mesh line": b"probe -\n",
    "half a handshake": bytes.fromhex("16030100c8010000c40303"),
}


def knock(door: Door, said: bytes) -> dict[str, Any]:
    """Connects, says something, and listens; what came back."""
    connection = _connect(door)
    if isinstance(connection, str):
        return {"end": connection}
    with connection:
        connection.settimeout(LISTEN_SECONDS if said else SILENT_SECONDS)
        return _heard(lambda: connection.sendall(said), connection.recv)


def knock_with_tls(door: Door, context: ssl.SSLContext, said: bytes) -> dict[str, Any]:
    """The same after a handshake; bytes of the handshake are not counted."""
    connection = _connect(door)
    if isinstance(connection, str):
        return {"end": connection}
    with connection:
        connection.settimeout(LISTEN_SECONDS)
        try:
            secure = context.wrap_socket(connection)
        except OSError as error:
            return {"end": f"handshake: {getattr(error, 'reason', None) or type(error).__name__}"}
        with secure:
            return _heard(lambda: secure.sendall(said), secure.recv)


def _connect(door: Door) -> socket.socket | str:
    try:
        return socket.create_connection(door, CONNECT_SECONDS)
    except TimeoutError:
        return "dropped"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return f"no way: {error.strerror}"


def _heard(say: Callable[[], None], listen: Callable[[int], bytes]) -> dict[str, Any]:
    heard, end = b"", "closed"
    try:
        say()
        while len(heard) < MOST_BYTES and (more := listen(MOST_BYTES)):
            heard += more
    except TimeoutError:
        end = "silence"
    except OSError as error:
        end = getattr(error, "reason", None) or type(error).__name__
    return {"end": end, "bytes": len(heard), "begin": base64.b64encode(heard[:200]).decode()}


def contexts(folder: Path) -> dict[str, ssl.SSLContext]:
    """The clients that have no certificate of the cluster."""
    nobody = _trusting(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    old = _trusting(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    found = {"tls without certificate": nobody, "tls 1.2": old}
    for holder in ("server", "worker/w1"):
        context = found[f"tls as {holder}, signed by itself"] = _trusting(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        context.load_cert_chain(*_forged(folder, f"stoker://{holder}"))
    return found


def _trusting(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _forged(folder: Path, uri: str) -> tuple[Path, Path]:
    """A certificate that says what a right one says, but for who signed it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Stoker")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    stem = uri.replace("/", "-").replace(":", "")
    held, kept = folder / f"{stem}.pem", folder / f"{stem}.key"
    held.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    kept.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return held, kept


def member(folder: Path) -> ssl.SSLContext:
    """A client with the identity of a worker. It trusts whoever answers: it is not the one that is tried."""
    context = _trusting(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def _knock_everywhere(doors: list[Door]) -> None:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        clients = contexts(Path(folder))
        for door in doors:
            first = _connect(door)
            if isinstance(first, str):
                found.append({"door": door, "way": "connect", "end": first, "bytes": 0, "begin": ""})
                continue
            first.close()
            for way, said in _PLAIN.items():
                found.append({"door": door, "way": way} | knock(door, said))
            for way, context in clients.items():
                found.append({"door": door, "way": way} | knock_with_tls(door, context, b"probe -\n"))
    print(json.dumps(found))


def _ask(doors: list[Door], lines: list[str], identity: Path) -> None:
    context = member(identity)
    print(
        json.dumps(
            [{"door": d, "line": x} | knock_with_tls(d, context, f"{x}\n".encode()) for d in doors for x in lines]
        )
    )


def _stay(door: Door, line: str, identity: Path, seconds: float) -> None:
    """Prints the moment (time.time()) at which each connection was let in, ended, or was refused."""
    deadline = time.monotonic() + seconds
    context = member(identity)
    before = ""
    while time.monotonic() < deadline:
        now = _one_stay(door, line, context, deadline)
        if now != before:
            print(json.dumps({"at": time.time(), "how": now}), flush=True)
        before = now
        time.sleep(0.1)


def _one_stay(door: Door, line: str, context: ssl.SSLContext, deadline: float) -> str:
    """How it ended."""
    try:
        with socket.create_connection(door, CONNECT_SECONDS) as plain, context.wrap_socket(plain) as secure:
            secure.sendall(f"{line}\n".encode())
            answer = secure.recv(400)
            if answer[:1] != b"+":
                return f"not let in: {answer[:80]!r}"
            print(json.dumps({"at": time.time(), "how": "let in"}), flush=True)
            secure.settimeout(max(0.1, deadline - time.monotonic()))
            while secure.recv(400):
                continue
            return "ended"
    except OSError as error:
        return f"ended: {getattr(error, 'reason', None) or type(error).__name__}"


def _flood(doors: list[Door], count: int) -> None:
    connections = []
    for door in doors:
        for _ in range(count):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(door)
            connections.append(connection)
    print(json.dumps({"connections": len(connections)}), flush=True)
    sys.stdin.read()


def main(what: str) -> None:
    """Does it."""
    told = json.loads(sys.stdin.readline())
    doors = [(host, port) for host, port in told["doors"]]
    if what == "knock":
        _knock_everywhere(doors)
    elif what == "ask":
        _ask(doors, told["lines"], Path(told["identity"]))
    elif what == "stay":
        _stay(doors[0], told["line"], Path(told["identity"]), told["seconds"])
    else:
        _flood(doors, told["count"])


if __name__ == "__main__":
    main(sys.argv[1])
