"""Codex, OpenAI's agent, with Stoker as its provider: whether it begins a turn, and what it makes of the stream."""

import os
import tempfile
from pathlib import Path

from agent_process import Turn
from checks import BASE_URL, check

HOME = Path(tempfile.mkdtemp(prefix="codex-"))
MODEL = os.environ["STOKER_AGENT_MODEL"]

(HOME / "config.toml").write_text(
    f"""
model = "{MODEL}"
model_provider = "stoker"
check_for_update_on_startup = false
web_search = "disabled"
approval_policy = "never"
sandbox_mode = "read-only"

[model_providers.stoker]
name = "Stoker"
base_url = "{BASE_URL}/v1"
env_key = "STOKER_API_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
stream_idle_timeout_ms = 600000

[analytics]
enabled = false

[feedback]
enabled = false
"""
)

COMMAND = ["node_modules/.bin/codex", "exec", "--json", "--skip-git-repo-check", "--ephemeral", "Say hello."]

with check("a turn begins, is streamed, and ends"):
    turn = Turn(
        [str(Path(os.environ["STOKER_NODE_FOLDER"]) / COMMAND[0]), *COMMAND[1:]],
        {"CODEX_HOME": str(HOME)},
        until=lambda event: event.get("type") in ("turn.completed", "turn.failed", "error"),
    )
    kinds = [event.get("type") for event in turn.events]
    assert "turn.started" in kinds, turn.told()
    assert "turn.completed" in kinds, turn.told()
    items = [event["item"] for event in turn.events if event.get("type") == "item.completed"]
    assert any(item.get("type") == "agent_message" and item.get("text") for item in items), turn.told()
