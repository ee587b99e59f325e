"""The `llm` command, told of the models by its own file extra-openai-models.yaml."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import API_KEY, BASE_URL, MODEL, check

LLM = str(Path(sys.executable).parent / "llm")
FOLDER = tempfile.mkdtemp(prefix="llm-")
ENVIRONMENT = os.environ | {"LLM_USER_PATH": FOLDER, "STOKER_KEY": API_KEY}

(Path(FOLDER) / "extra-openai-models.yaml").write_text(
    f"""
- model_id: stoker
  model_name: {MODEL}
  api_base: {BASE_URL}/v1
  api_key_name: stoker
  supports_schema: true
- model_id: stoker-text
  model_name: {MODEL}
  api_base: {BASE_URL}/v1
  api_key_name: stoker
  completion: true
"""
)


def llm(*arguments: str) -> str:
    """What a command says on stdout."""
    done = subprocess.run([LLM, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"llm {arguments} ended with {done.returncode}: {done.stderr[-400:]}")
    return done.stdout


with check("keys, models"):
    llm("keys", "set", "stoker", "--value", API_KEY)
    assert "stoker" in llm("models", "list")

with check("prompt, streamed"):
    assert llm("-m", "stoker", "Say hello.", "-o", "max_tokens", "8").strip()

with check("prompt, not streamed, with usage"):
    assert llm("-m", "stoker", "Say hello.", "-o", "max_tokens", "8", "--no-stream", "-u").strip()

with check("conversation continued"):
    assert llm("-c", "And again.", "-o", "max_tokens", "8").strip()

with check("schema"):
    told = llm(
        "-m", "stoker", "Jason is 25.", "--schema", "age int", "-o", "temperature", "0", "-o", "max_tokens", "80"
    )
    assert isinstance(json.loads(told)["age"], int)

with check("text completion"):
    assert llm("-m", "stoker-text", "One, two, three,", "-o", "max_tokens", "8").strip()
