"""langchain-openai under LangChain's own standard tests for chat models and for embeddings (langchain-tests)."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from checks import API_KEY, BASE_URL, EMBEDDING_MODEL, MODEL, TOOL_MODEL, report
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

# What a test wants of the model itself: to choose a tool, or to answer a question rightly. Where it fails, it is not
# the protocol's fault; where it passes all the same, it counts as passed.
NEEDS_A_BETTER_MODEL = {
    "test_tool_calling": "the model must choose to call a tool",
    "test_tool_calling_async": "the model must choose to call a tool",
    "test_tool_calling_with_no_arguments": "the model must choose to call a tool",
    "test_bind_runnables_as_tools": "the model must make a call of several tools' choice that is whole",
    "test_tool_choice": "the model must end its call within the length",
    "test_agent_loop": "the model must choose to call a tool, and answer with its result",
    "test_unicode_tool_call_integration": "the model must repeat the words of a question in a tool's arguments",
    "test_structured_output": "the model must fill a schema, and end",
    "test_structured_output_async": "the model must fill a schema, and end",
    "test_structured_output_pydantic_2_v1": "the model must fill a schema, and end",
    "test_structured_output_optional_param": "the model must fill a schema, and end",
    "test_json_mode": "the model must write the fields that it is asked for",
}


class TestChat(ChatModelIntegrationTests):
    """The real engine, with tools."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": TOOL_MODEL,
            "base_url": f"{BASE_URL}/v1",
            "api_key": API_KEY,
            "temperature": 0,
            "max_tokens": 200,
            "timeout": 600,
            "max_retries": 0,
            "stream_usage": True,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL


class TestEmbeddings(EmbeddingsIntegrationTests):
    """The real engine's embeddings."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {
            "model": EMBEDDING_MODEL,
            "base_url": f"{BASE_URL}/v1",
            "api_key": API_KEY,
            "check_embedding_ctx_length": False,  # it would count tokens with OpenAI's own vocabulary
        }


class Reporter:
    """Tells each test's outcome."""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest for each phase of each test."""
        if report.when != "call" and not (report.when == "setup" and report.outcome != "passed"):
            return
        name = report.nodeid.rpartition("::")[2]
        reason = NEEDS_A_BETTER_MODEL.get(name.partition("[")[0])
        if report.outcome == "passed":
            told(name, "passed")
        elif report.outcome == "skipped":
            told(name, "skipped", str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr))
        elif reason is not None:
            told(name, "limited", reason)
        else:
            told(name, "failed", str(report.longrepr)[-300:])


def told(name: str, result: str, note: str = "") -> None:
    """One test's outcome; what a model does not have is no finding."""
    if result != "skipped":
        report(name, result, note)


if __name__ == "__main__":
    os.environ["LANGSMITH_TRACING"] = "false"
    here = str(Path(__file__))
    # not by the settings of the project that this file stands in
    options = ["-c", os.devnull, "--rootdir", str(Path(here).parent), "--noconftest", "-p", "no:cacheprovider"]
    options += ["-p", "no:terminal"]  # only the reports are told
    # the package keeps one client for all chat models, whose connections are one event loop's
    options += [f"--override-ini=asyncio_default_{what}_loop_scope=session" for what in ("fixture", "test")]
    sys.exit(pytest.main([here, "--asyncio-mode=auto", *options], plugins=[Reporter()]) > 1)
