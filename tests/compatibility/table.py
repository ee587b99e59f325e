"""docs/compatibility.md: what is tried with which client, and how the result is written down."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLIENTS = Path(__file__).parent / "clients"
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"

INTRODUCTION = """\
# Compatibility

Made by `make compatibility`, which installs each client as it is published, points it at a running Stoker (another base
URL and another key, nothing else), and runs one small program for it: those in `tests/compatibility/clients`. The
engine is the real one, llama.cpp with SmolLM2-135M-Instruct; where tools are called, with a chat template that knows
tools.

*Limited*: the check asks something of the model itself, to choose a tool or to fill in a form rightly, which one of 135
million parameters cannot; the requests and answers were exchanged as they should be.

"""


@dataclass(frozen=True)
class Client:
    """One row."""

    name: str
    package: str  # whose version is told
    program: str  # in clients/
    what: str  # is run
    packages: tuple[str, ...] = field(default=())  # to install besides

    @property
    def in_node(self) -> bool:
        """Whether the package comes from npm."""
        return self.program.endswith(".mjs") or self.package.startswith("@")


@dataclass(frozen=True)
class Outcome:
    """What a client's program reported."""

    version: str
    passed: int = 0
    limited: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    @classmethod
    def read(cls, found: dict[str, Any]) -> "Outcome":
        """One that was written as JSON."""
        return cls(found["version"], found["passed"], tuple(found["limited"]), tuple(found["failed"]))


ROWS = (
    Client(
        "openai-python",
        "openai",
        "openai_python.py",
        "models, chat, completions, embeddings, responses; whole and streamed, tools, schemas, log probabilities, "
        "errors; every answer strictly of the package's types",
    ),
    Client("openai-node", "openai", "openai_node.mjs", "the same routes, the package's stream helpers, giving up"),
    Client(
        "langchain-openai",
        "langchain-openai",
        "langchain_openai_standard.py",
        "LangChain's standard tests for chat models and embeddings (`langchain-tests`)",
        ("langchain-tests", "pytest", "pytest-asyncio"),
    ),
    Client("llm", "llm", "llm_command.py", "the command: streamed, not streamed, continued, a schema, text completion"),
    Client("instructor", "instructor", "instructor_library.py", "a model's fields by a tool, by a schema, in parts"),
    Client(
        "pydantic-ai",
        "pydantic-ai-slim",
        "pydantic_ai_library.py",
        "chat, responses and messages: answers, streams, output by a tool and by a schema",
        ("pydantic-ai-slim[openai,anthropic]",),
    ),
    Client(
        "Vercel AI SDK",
        "ai",
        "vercel_ai.mjs",
        "`@ai-sdk/openai-compatible` and `@ai-sdk/openai` (chat, responses): text, streams, tools, objects, embeddings",
        ("@ai-sdk/openai", "@ai-sdk/openai-compatible", "zod"),
    ),
    Client(
        "Anthropic SDK (Python)",
        "anthropic",
        "anthropic_python.py",
        "messages, whole and streamed, tools, stop sequences, count_tokens, errors; strictly of the package's types",
    ),
    Client("Codex", "@openai/codex", "codex_agent.py", "`codex exec`: one turn over /v1/responses"),
    Client(
        "Claude Code", "@anthropic-ai/claude-code", "claude_code_agent.py", "`claude -p`: one turn over /v1/messages"
    ),
)


def document(outcomes: dict[str, Outcome]) -> str:
    """The whole file, from the outcome of each client by its name."""
    lines = ["| Client | Version | What was run | Result |", "| --- | --- | --- | --- |"]
    notes = []
    for row in ROWS:
        outcome = outcomes[row.name]
        lines.append(f"| {row.name} | {outcome.version} | {row.what} | {_result(outcome)} |")
        for kind, names in (("failed", outcome.failed), ("limited", outcome.limited)):
            notes += [f"- {row.name}, {kind}: {name}" for name in names]
    details = "\n## What did not pass\n\n" + "\n".join(notes) + "\n" if notes else ""
    return INTRODUCTION + "\n".join(lines) + "\n" + details


def _result(outcome: Outcome) -> str:
    told = [f"{outcome.passed} passed"]
    told += [f"{len(outcome.limited)} limited"] if outcome.limited else []
    told += [f"**{len(outcome.failed)} failed**"] if outcome.failed else []
    return ", ".join(told)
