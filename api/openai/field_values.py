"""The values that fields of a request may have: numbers within bounds, arrays that end, and what asks for nothing."""

from typing import Any

INT32_MAX = 2**31 - 1

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
