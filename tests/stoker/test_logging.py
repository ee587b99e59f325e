"""Logs, in a process of their own: they are set up once for a whole process."""

import json
import subprocess
import sys
from typing import Any

import pytest

SETUP = """
import asyncio, logging, structlog
from pydantic import SecretStr
from stoker.logging import configure_logging
configure_logging("api", "{level}", json_lines={json_lines})
log = structlog.get_logger("ours")
theirs = logging.getLogger("temporalio.activity")
"""


def said(code: str, *, level: str = "info", json_lines: bool | None = True) -> str:
    """What the process writes to stderr; nothing goes to stdout."""
    program = SETUP.format(level=level, json_lines=json_lines) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr


def lines(code: str, **options: Any) -> list[dict[str, Any]]:
    """The same, by line."""
    return [json.loads(line) for line in said(code, **options).splitlines()]


CODE = """
log.debug("not_shown")
log.info("made", deployment="smol", replicas=2)
with structlog.contextvars.bound_contextvars(request_id="req_1"):
    log.warning("in_a_request")
log.info("secrets", token=SecretStr("the-token"), object=object)
logging.getLogger("library").error("theirs: %s", "text")
logging.getLogger("httpx").info("GET http://x")
logging.getLogger("uvicorn.access").info("GET /")
try:
    password = "in a local variable"
    raise ValueError("broken")
except ValueError:
    log.exception("failed")
for text in ("a\\nb", "\\x1b[31mred", "é"):
    log.info("odd", text=text)
"""


def test_one_json_object_a_line() -> None:
    entries = lines(CODE)
    assert [entry["event"] for entry in entries] == [
        "made",
        "in_a_request",
        "secrets",
        "theirs: text",
        "failed",
        "odd",
        "odd",
        "odd",
    ]
    made, request, secret, theirs, failed, *odd = entries
    assert {name: made[name] for name in ("level", "process", "deployment", "replicas")} == {
        "level": "info",
        "process": "api",
        "deployment": "smol",
        "replicas": 2,
    }
    assert made["ts"].endswith("Z")
    assert (request["request_id"], request["level"]) == ("req_1", "warning")
    assert "the-token" not in json.dumps(secret)
    assert (theirs["level"], theirs["process"]) == ("error", "api")
    assert failed["exception"].splitlines()[-1] == "ValueError: broken"
    assert "in a local variable" not in failed["exception"].replace('password = "in a local variable"', "")
    assert [entry["text"] for entry in odd] == ["a\nb", "\x1b[31mred", "é"]


def test_for_people_there_are_no_local_variables_either() -> None:
    text = said(CODE, json_lines=False)
    assert "in_a_request" in text
    assert "ValueError: broken" in text
    assert "in a local variable" not in text


def test_stderr_that_is_no_terminal_gets_json() -> None:
    (entry,) = lines('log.info("one")', json_lines=None)
    assert entry["event"] == "one"


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_holds_for_ours_and_for_theirs(level: str, shown: int) -> None:
    code = "".join(
        f"log.{name}('e')\nlogging.getLogger('x').{name}('e')\n" for name in ("debug", "info", "warning", "error")
    )
    assert len(lines(code, level=level)) == 2 * shown


def test_the_normal_end_of_an_endless_activity_is_no_warning_and_its_failure_is() -> None:
    entries = lines("""
for error in (asyncio.CancelledError(), RuntimeError("disk full")):
    try:
        raise error
    except BaseException:
        theirs.warning("Completing activity as failed", exc_info=True)
theirs.warning("Completing as failure due to unhandled cancel error produced by activity pause")
theirs.warning("something else was cancelled by somebody")
""")
    assert [entry["event"] for entry in entries] == [
        "Completing activity as failed",
        "something else was cancelled by somebody",
    ]
    assert "RuntimeError: disk full" in entries[0]["exception"]
