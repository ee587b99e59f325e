"""A program that behaves like llama-server as far as the supervisor can see, and misbehaves on request.

Everything is steered by files in the folder that --stage names: `ready` (exists: the model is loaded), `requests`
(a number: that many are in work), and it leaves `child` (the pid of a process it started).
"""

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = ArgumentParser()
parser.add_argument("--stage", type=Path, required=True)
parser.add_argument("--stubborn", action="store_true")
parser.add_argument("--with-child", action="store_true")
parser.add_argument("--deaf", action="store_true")
options = parser.parse_args()
stage: Path = options.stage


class Handler(BaseHTTPRequestHandler):
    """Answers /health and /metrics."""

    def do_GET(self) -> None:
        """503 until `ready` exists; /metrics wants the key."""
        if not (stage / "ready").exists():
            self._answer(503, '{"error":{"message":"Loading model"}}')
        elif self.path == "/health":
            self._answer(200, '{"status":"ok"}')
        elif self.headers["Authorization"] != f"Bearer {os.environ['LLAMA_API_KEY'].split(',')[0]}":
            self._answer(401, "")
        else:
            count = (stage / "requests").read_text()
            self._answer(200, f"llamacpp:requests_processing {count}\nllamacpp:requests_deferred 0\n")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


if options.stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if options.with_child:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (stage / "child").write_text(str(child.pid))
if options.deaf:
    time.sleep(600)
with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    load = stage / "load"
    said = load.read_text() if load.exists() else ""
    sys.stderr.write(f"{said}0.00.000.001 I srv  llama_server: listening on http://127.0.0.1:{server.server_port}\n")
    server.serve_forever()
