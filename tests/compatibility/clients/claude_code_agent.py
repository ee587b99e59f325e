"""Claude Code, Anthropic's agent, pointed at Stoker: whether it begins a turn, and what it makes of the stream."""

import os
import tempfile
from pathlib import Path

from agent_process import Turn
from checks import API_KEY, BASE_URL, check

MODEL = os.environ["STOKER_AGENT_MODEL"]
CLAUDE = str(Path(os.environ["STOKER_NODE_FOLDER"]) / "node_modules/.bin/claude")

ENVIRONMENT = {
    "ANTHROPIC_BASE_URL": BASE_URL,
    "ANTHROPIC_AUTH_TOKEN": API_KEY,
    "ANTHROPIC_MODEL": MODEL,
    "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
    "CLAUDE_CONFIG_DIR": tempfile.mkdtemp(prefix="claude-"),
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "64",
    "CLAUDE_CODE_SKIP_PROMPT_HISTORY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_NON_ESSENTIAL_MODEL_CALLS": "1",
    "API_TIMEOUT_MS": "600000",
}

with check("a turn begins, is streamed, and ends"):
    turn = Turn(
        [
            CLAUDE,
            "-p",
            "Say hello.",
            "--output-format",
            "stream-json",
            "--verbose",
            "--include-partial-messages",
            "--max-turns",
            "1",
        ],
        ENVIRONMENT,
        until=lambda event: event.get("type") == "result",
    )
    streamed = [event["event"] for event in turn.events if event.get("type") == "stream_event"]
    assert any(event.get("type") == "content_block_delta" for event in streamed), turn.told()
    assert any(event.get("type") == "message_stop" for event in streamed), turn.told()
    assert any(event.get("type") == "assistant" for event in turn.events), turn.told()
