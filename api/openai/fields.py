"""The fields that a request's body may have, for each route.

Three kinds:

- What OpenAI and Anthropic publish (their Python packages' parameter types; a test compares). What means nothing to an
  engine here (`store`, `user`, `service_tier`, `cache_control`…) is taken all the same: applications change their base
  URL and nothing else.
- What llama-server knows besides, as far as it touches only the request that says it: sampling, grammars, templates.
- `HARMLESS`: what would change the answer and cannot be done here. Only values that ask for nothing are taken.

Everything else is refused by name: a misspelt field changes nothing silently, and no switch of the engine is in reach
because a new version of it has one.
"""

from typing import Any

INT32_MAX = 2**31 - 1

_SAMPLING = {
    "adaptive_decay",
    "adaptive_target",
    "cache_prompt",
    "dry_allowed_length",
    "dry_base",
    "dry_multiplier",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "dynatemp_range",
    "frequency_penalty",
    "grammar",
    "ignore_eos",
    "json_schema",
    "logit_bias",
    "min_keep",
    "min_p",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "n_predict",
    "n_probs",
    "post_sampling_probs",
    "presence_penalty",
    "repeat_last_n",
    "repeat_penalty",
    "samplers",
    "seed",
    "stop",
    "t_max_predict_ms",
    "temperature",
    "top_k",
    "top_n_sigma",
    "top_p",
    "typical_p",
    "xtc_probability",
    "xtc_threshold",
}
_TEMPLATE = {
    "add_generation_prompt",
    "chat_template_kwargs",
    "continue_final_message",
    "parse_tool_calls",
    "reasoning_budget_message",
    "reasoning_budget_tokens",
    "reasoning_format",
    "thinking_budget_tokens",
}
_OPENAI = {  # which OpenAI keeps for itself: billing, abuse, caching
    "metadata",
    "moderation",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
_CHAT = {
    "audio",
    "function_call",
    "functions",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "modalities",
    "model",
    "n",
    "n_cmpl",
    "parallel_tool_calls",
    "prediction",
    "reasoning_effort",
    "response_format",
    "stream",
    "stream_options",
    "tool_choice",
    "tools",
    "top_logprobs",
    "verbosity",
    "web_search_options",
}
_COMPLETIONS = {
    "best_of",
    "echo",
    "logprobs",
    "max_tokens",
    "model",
    "n",
    "n_cmpl",
    "prompt",
    "stream",
    "stream_options",
    "suffix",
    "user",
}
_RESPONSES = {  # `client_metadata`: Codex sends it
    "access_programs",
    "background",
    "client_metadata",
    "context_management",
    "conversation",
    "image",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "reasoning",
    "stream",
    "stream_options",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "truncation",
}
_COUNT_TOKENS = {
    "betas",
    "billing_policy",
    "cache_control",
    "compaction",
    "context_management",
    "mcp_servers",
    "messages",
    "model",
    "output_config",
    "output_format",
    "speed",
    "system",
    "thinking",
    "tool_choice",
    "tools",
    "user_profile_id",
    "workspace_id",
}
_MESSAGES = _COUNT_TOKENS | {
    "chat_template_kwargs",
    "container",
    "diagnostics",
    "fallback_credit_token",
    "fallbacks",
    "inference_geo",
    "max_tokens",
    "metadata",
    "service_tier",
    "stop_sequences",
    "stream",
    "temperature",
    "thread",
    "top_k",
    "top_p",
}

FIELDS: dict[str, frozenset[str]] = {
    "/chat/completions": frozenset(_CHAT | _OPENAI | _SAMPLING | _TEMPLATE),
    "/completions": frozenset(_COMPLETIONS | _SAMPLING),
    "/embeddings": frozenset({"dimensions", "embd_normalize", "encoding_format", "input", "model", "user"}),
    "/rerank": frozenset({"documents", "max_tokens_per_doc", "model", "query", "return_documents", "top_n", "user"}),
    "/responses": frozenset(_RESPONSES | _OPENAI | _SAMPLING | _TEMPLATE),
    "/messages": frozenset(_MESSAGES),
    "/messages/count_tokens": frozenset(_COUNT_TOKENS),
    "/audio/transcriptions": frozenset(
        {
            "chunking_strategy",
            "file",
            "include",
            "keywords",
            "known_speaker_names",
            "known_speaker_references",
            "language",
            "languages",
            "model",
            "prompt",
            "response_format",
            "stream",
            "temperature",
            "timestamp_granularities",
        }
    ),
}

# The engine's own switches: they reach beyond the request that sets them, or name what is not the client's.
ENGINE_SWITCHES = frozenset(
    {
        "backend_sampling",
        "chat_format",
        "chat_parser",
        "generation_prompt",
        "grammar_lazy",
        "grammar_triggers",
        "id_slot",
        "lora",
        "message_delimiters",
        "n_cache_reuse",
        "n_discard",
        "n_keep",
        "preserved_tokens",
        "response_fields",
        "return_progress",
        "return_tokens",
        "sse_ping_interval",
        "timings_per_token",
        "verbose",
    }
)

# field: (lowest, highest, whole numbers only); OpenAI's documented ranges, llama-server's own, and -1 where llama.cpp
# means "no limit". Without one, a number could make the engine allocate as much memory as it says.
RANGES: dict[str, tuple[float, float, bool]] = {
    "adaptive_decay": (0, 0.99, False),
    "adaptive_target": (-1, 1, False),
    "best_of": (1, 128, True),
    "dimensions": (1, INT32_MAX, True),
    "dry_allowed_length": (0, 65536, True),
    "dry_base": (0, 100, False),
    "dry_multiplier": (0, 100, False),
    "dry_penalty_last_n": (0, 65536, True),
    "dynatemp_exponent": (0, 100, False),
    "dynatemp_range": (0, 100, False),
    "embd_normalize": (-1, 32, True),
    "frequency_penalty": (-2, 2, False),
    "max_completion_tokens": (-1, INT32_MAX, True),
    "max_output_tokens": (-1, INT32_MAX, True),
    "max_tokens": (-1, INT32_MAX, True),
    "max_tool_calls": (0, INT32_MAX, True),
    "min_keep": (0, 1024, True),
    "min_p": (0, 1, False),
    "mirostat": (0, 2, True),
    "mirostat_eta": (0, 100, False),
    "mirostat_tau": (0, 100, False),
    "n": (1, 128, True),
    "n_cmpl": (1, 128, True),
    "n_predict": (-1, INT32_MAX, True),
    "n_probs": (0, 100, True),
    "presence_penalty": (-2, 2, False),
    "reasoning_budget_tokens": (-1, INT32_MAX, True),
    "repeat_last_n": (0, 65536, True),
    "repeat_penalty": (0, 100, False),
    "seed": (-(2**63), 2**63 - 1, True),
    "t_max_predict_ms": (-1, INT32_MAX, True),
    "temperature": (0, 2, False),
    "thinking_budget_tokens": (-1, INT32_MAX, True),
    "top_k": (-1, INT32_MAX, True),
    "top_logprobs": (0, 20, True),
    "top_n": (1, INT32_MAX, True),
    "top_n_sigma": (-1, 100, False),
    "top_p": (0, 1, False),
    "typical_p": (0, 1, False),
    "xtc_probability": (0, 1, False),
    "xtc_threshold": (0, 1, False),
}

# field: the most entries of its array or object. OpenAI's own limits where it has any.
MOST: dict[str, int] = {
    "documents": 2048,
    "dry_sequence_breakers": 64,
    "logit_bias": 1024,
    "messages": 4096,
    "samplers": 32,
    "stop": 64,
    "stop_sequences": 64,
    "tools": 512,
}

# field: (the values that ask for nothing, why no other is taken)
Harmless = dict[str, tuple[tuple[Any, ...], str]]

_STATELESS = "nothing is kept here from one request to the next: send the whole conversation"
HARMLESS: dict[str, Harmless] = {
    "/chat/completions": {
        "audio": ((), "the engine writes text only"),
        "function_call": (("none", "auto"), "it is the old name of 'tool_choice', which is taken"),
        "functions": (([],), "it is the old name of 'tools', which are taken"),
        "modalities": ((["text"], []), "the engine writes text only"),
        "moderation": ((), "nothing is moderated here"),
        "web_search_options": ((), "there is no search here"),
    },
    "/completions": {
        "best_of": ((1,), "ask for 'n' answers, and choose"),
        "echo": ((False,), "the engine does not repeat the prompt"),
        "suffix": (("",), "the engine only continues a prompt"),
    },
    "/embeddings": {"dimensions": ((), "the model's embeddings are given as long as they are")},
    "/rerank": {"return_documents": ((False,), "each result names its document by 'index'")},
    "/responses": {
        "access_programs": (([],), "there are none here"),
        "background": ((False,), _STATELESS),
        "conversation": ((), _STATELESS),
        "image": ((), "the engine writes text only"),
        "moderation": ((), "nothing is moderated here"),
        "previous_response_id": (("",), _STATELESS),
        "prompt": ((), "no prompts are kept here: send it as 'instructions' or 'input'"),
        "top_logprobs": ((0,), "the engine gives none on this route; /v1/chat/completions has them"),
    },
    "/messages": {
        "container": ((), "there are none here"),
        "mcp_servers": (([],), "the engine calls nobody"),
        "output_format": ((), "answers of a given shape are to be had from /v1/chat/completions"),
        "thread": ((), _STATELESS),
    },
    "/messages/count_tokens": {"mcp_servers": (([],), "the engine calls nobody")},
    "/audio/transcriptions": {
        "chunking_strategy": (("auto",), "the engine hears a file as a whole"),
        "include[]": ((), "the engine gives none of it"),
        "known_speaker_names[]": ((), "the engine tells no speakers apart"),
        "known_speaker_references[]": ((), "the engine tells no speakers apart"),
        "response_format": (("json",), "the engine writes 'json' only"),
        "timestamp_granularities[]": ((), "the engine tells no times"),
    },
}
