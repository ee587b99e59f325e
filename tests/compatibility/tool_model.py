"""SmolLM2 with a chat template that knows tools: its own does not, and so no tool could be called at all.

The weights are the same. What a model of 135 million parameters calls makes little sense; that it is called, with
arguments of the right shape, is the engine's grammar and the door's work.
"""

from pathlib import Path

import gguf

# In the manner of Qwen 2.5's, but that a call stands by itself, and the question ends with how an answer begins: where
# a client requires a call, the engine's grammar then lets little else through, and even this model makes one.
TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nYou may call one or more functions. Their signatures are within <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n\\nTo call one, answer {\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}" }}
    {{- "<|im_end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role in ["user", "developer"] or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- if tools and loop.last %}
            {{- '\\nAnswer with JSON only, like this: {"name": "' + tools[0].function.name + '", "arguments": {' }}
        {%- endif %}
        {{- '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


_CALL_ME = """\
        {%- if tools and loop.last %}
            {{- '\\nAnswer with JSON only, like this: {"name": "' + tools[0].function.name + '", "arguments": {' }}
        {%- endif %}
"""

ENDS = (".", ",")
"""Tokens that end an agent's answer. Behind a prompt of that length SmolLM2 would go on until its context is full."""


def write_tool_model(source: Path, target: Path, agents_context: int | None = None) -> Path:
    """Writes a copy of a model with TEMPLATE as its chat template; returns its file.

    `agents_context`: the copy is for agents. So many tokens it says it was trained for: agents say more about
    themselves than SmolLM2 was, and it goes on beyond that, with less sense. It is not asked for JSON, and its answers
    are short.
    """
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if agents_context is not None and name == f"{architecture}.context_length":
            writer.add_context_length(agents_context)
            continue
        if name.startswith("GGUF.") or name in ("general.architecture", "tokenizer.chat_template"):
            continue
        kind = field.types[0]
        sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub_type)
    writer.add_chat_template(TEMPLATE if agents_context is None else TEMPLATE.replace(_CALL_ME, ""))
    if agents_context is not None:
        tokens = reader.fields["tokenizer.ggml.tokens"].contents()
        writer.add_eot_token_id(tokens.index(ENDS[0]))
        writer.add_eom_token_id(tokens.index(ENDS[1]))
    for tensor in reader.tensors:
        writer.add_tensor_info(
            tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, raw_dtype=tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()
    return target
