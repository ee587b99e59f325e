"""Builders for tests: tiny models that the real engine loads, and domain values with sensible defaults."""

import math
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from stoker.domain.deployments import DeploymentSpec
from stoker.domain.gguf import LayerShape, ModelProfile
from stoker.domain.models import ModelFile, ModelFiles, ModelSource
from stoker.domain.placement.types import PlacementRequest
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import Device, DeviceKind, Engine, EngineKind, Worker

# --- tiny models --------------------------------------------------------------------------------------------

CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
_FIRST_WORD = len(SPECIAL_TOKENS) + 256
_SYLLABLES = [consonant + vowel for consonant in "bdfgjklmnprstvwz" for vowel in "aeiou"]
_FILE_TYPES = {
    gguf.GGMLQuantizationType.F32: gguf.LlamaFileType.ALL_F32,
    gguf.GGMLQuantizationType.F16: gguf.LlamaFileType.MOSTLY_F16,
    gguf.GGMLQuantizationType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
    gguf.GGMLQuantizationType.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
    gguf.GGMLQuantizationType.Q4_1: gguf.LlamaFileType.MOSTLY_Q4_1,
}


def write_tiny_llama(
    path: Path,
    *,
    architecture: Literal["llama", "qwen2", "qwen3"] = "llama",
    layers: int = 2,
    embedding: int = 64,
    heads: int = 4,
    heads_kv: int = 2,
    head_size: int | None = None,
    feed_forward: int = 256,
    vocabulary: int = 1024,
    context: int = 2048,
    tied: bool = False,
    weight_type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16,
    size_hint: int | None = None,
    max_tensors_per_file: int = 0,
    chat_template: str | None = CHAT_TEMPLATE,
    name: str = "Tiny",
    seed: int = 0,
) -> Path:
    """Writes a model of random weights that llama.cpp loads and generates with; returns its (first) file.

    It speaks made-up words (" bada kemu …") and never ends by itself: a generation runs to its token limit.
    The same arguments give the same bytes. `size_hint` (bytes) widens the feed-forward layers until the file
    is about that big. `max_tensors_per_file` writes shards (`<stem>-00001-of-0000N.gguf`) instead of `path`.
    """
    if vocabulary <= _FIRST_WORD:
        raise ValueError(f"vocabulary={vocabulary} must be above {_FIRST_WORD}: the special and byte tokens")
    head_size = head_size or embedding // heads
    if size_hint is not None:
        attention = 2 * embedding * head_size * (heads + heads_kv)
        fixed = (1 if tied else 2) * vocabulary * embedding + layers * attention
        room = size_hint / _bytes_per_element(weight_type) - fixed
        feed_forward = max(32, 32 * round(room / (layers * 3 * embedding) / 32))

    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=max_tensors_per_file)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[weight_type])
    writer.add_context_length(context)
    writer.add_embedding_length(embedding)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads_kv)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    _add_tokenizer(writer, vocabulary, chat_template)

    random = np.random.default_rng(seed)

    def add(tensor: str, *shape: int, spread: float = 0.02) -> None:
        values = random.standard_normal(shape, dtype=np.float32) * spread
        if tensor.endswith(("attn_output.weight", "ffn_down.weight")):
            values[0] = 0  # no layer touches dimension 0: see _vocabulary_matrix
        writer.add_tensor(tensor, gguf.quants.quantize(values, weight_type), raw_dtype=weight_type)

    def add_vector(tensor: str, length: int, value: float) -> None:
        writer.add_tensor(tensor, np.full(length, value, dtype=np.float32))

    for tensor in ("token_embd.weight",) if tied else ("token_embd.weight", "output.weight"):
        matrix = _vocabulary_matrix(random, vocabulary, embedding)
        writer.add_tensor(tensor, gguf.quants.quantize(matrix, weight_type), raw_dtype=weight_type)
    add_vector("output_norm.weight", embedding, 1.0)
    for layer in range(layers):
        block = f"blk.{layer}"
        add_vector(f"{block}.attn_norm.weight", embedding, 1.0)
        for part, count in (("q", heads), ("k", heads_kv), ("v", heads_kv)):
            width = count * head_size
            add(f"{block}.attn_{part}.weight", width, embedding)
            if architecture == "qwen2":
                add_vector(f"{block}.attn_{part}.bias", width, 0.01)
            if architecture == "qwen3" and part != "v":
                add_vector(f"{block}.attn_{part}_norm.weight", head_size, 1.0)
        add(f"{block}.attn_output.weight", embedding, heads * head_size, spread=0.2)
        add_vector(f"{block}.ffn_norm.weight", embedding, 1.0)
        add(f"{block}.ffn_gate.weight", feed_forward, embedding)
        add(f"{block}.ffn_up.weight", feed_forward, embedding)
        add(f"{block}.ffn_down.weight", embedding, feed_forward, spread=0.2)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if max_tensors_per_file == 0 else min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))


def _bytes_per_element(weight_type: gguf.GGMLQuantizationType) -> float:
    elements, size = gguf.GGML_QUANT_SIZES[weight_type]
    return float(size / elements)


def _vocabulary_matrix(random: np.random.Generator, vocabulary: int, embedding: int) -> np.ndarray[Any, Any]:
    """One row a token. Dimension 0 is a bias that lifts every word far above the special and byte tokens.

    Those are thus never chosen, so that the text is valid UTF-8 and as long as was asked for.
    """
    matrix = random.standard_normal((vocabulary, embedding), dtype=np.float32) * 0.3
    matrix[:, 0] = math.sqrt(embedding) / 2
    matrix[:_FIRST_WORD] = 0
    matrix[:_FIRST_WORD, 0] = 0.01
    return matrix


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int, chat_template: str | None) -> None:
    words: list[str] = ["▁"]
    suffixes = [""]
    while len(words) < vocabulary - _FIRST_WORD:
        suffixes = [syllable + suffix for suffix in suffixes for syllable in _SYLLABLES]
        words += [f"▁{word}" for word in suffixes]
    words = words[: vocabulary - _FIRST_WORD]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *words])
    writer.add_token_scores([0.0] * _FIRST_WORD + [-float(index) for index in range(len(words))])
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_token_types([*kinds, *[gguf.TokenType.BYTE] * 256, *[gguf.TokenType.NORMAL] * len(words)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


# --- domain values ------------------------------------------------------------------------------------------


def make_layer(**overrides: Any) -> LayerShape:
    """A layer of Llama 3.1 8B: 8 heads of 128 keys and as many values, a gated feed-forward part of 14,336.

    The moments are with rows of 4096: three beside the feed-forward part, one beside queries and keys.
    """
    values: dict[str, Any] = {
        "weights": 125 * MIB,
        "key_width": 1024,
        "value_width": 1024,
        "heads": 32,
        "query_width": 4096,
        "feed_forward": 3 * 14_336 + 3 * 4096,
        "attention": 2 * 4096 + 1024 + 4096,
    }
    return LayerShape(**(values | overrides))


def make_profile(**overrides: Any) -> ModelProfile:
    """Llama 3.1 8B at about 4.5 bits a weight: 32 layers, 4.6 GiB. `layers` may be a number of layers."""
    layers = overrides.pop("layers", 32)
    if isinstance(layers, int):
        layers = (make_layer(),) * layers
    values: dict[str, Any] = {
        "architecture": "llama",
        "name": "Llama 3.1 8B Instruct",
        "file_type": "Q4_K_M",
        "parameters": 8_030_261_248,
        "context_length": 131_072,
        "embedding_length": 4096,
        "head_count": 32,
        "key_length": 128,
        "value_length": 128,
        "vocabulary": 128_256,
        "layers": layers,
        "input_weights": 282 * MIB,
        "output_weights": 411 * MIB,
        "has_chat_template": True,
    }
    return ModelProfile(**(values | overrides))


def make_device(**overrides: Any) -> Device:
    """A CUDA GPU of 24 GiB; `kind=DeviceKind.CPU` alone gives the host's CPU with 64 GiB."""
    if overrides.get("kind") is DeviceKind.CPU:
        values: dict[str, Any] = {"id": "cpu", "name": "CPU", "total": 64 * GIB}
    else:
        values = {"id": "gpu0", "kind": DeviceKind.CUDA, "total": 24 * GIB, "engine_name": "CUDA0"}
    return Device(**(values | overrides))


def make_worker(**overrides: Any) -> Worker:
    """A ready worker with one 24 GiB GPU and 64 GiB of RAM (device `cpu`)."""
    values: dict[str, Any] = {
        "name": "gpu-host-1",
        "devices": (make_device(), make_device(kind=DeviceKind.CPU)),
        "engine": Engine(kind=EngineKind.NATIVE, version="b11434", rpc_protocol="7.0.0"),
        "os": "linux",
        "agent_version": "0.1.0",
    }
    return Worker(**(values | overrides))


def make_spec(**overrides: Any) -> DeploymentSpec:
    """One replica of a model on the hub, all else at its default. `model` may be a source's written form."""
    model = overrides.pop("model", "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M")
    values: dict[str, Any] = {
        "name": "llama",
        "model": ModelSource.parse(model) if isinstance(model, str) else model,
    }
    return DeploymentSpec(**(values | overrides))


def make_files(source: ModelSource | None = None, **overrides: Any) -> ModelFiles:
    """One file of 4.6 GiB, where `source` (default: that of make_spec) says."""
    source = source or make_spec().model
    path = source.path or source.file or "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"
    revision = "" if source.path else "bf5b95e96dac0462e2a09145ec66cae9a3f12067"
    values: dict[str, Any] = {
        "source": source,
        "revision": revision,
        "files": (ModelFile(path=path, size=4_920_739_232),),
    }
    return ModelFiles(**(values | overrides))


def make_request(**overrides: Any) -> PlacementRequest:
    """The first incarnation of instance `llama-0`, asking for what make_spec and make_profile say."""
    spec = overrides.get("spec") or make_spec()
    values: dict[str, Any] = {
        "instance_id": f"{spec.name}-0",
        "incarnation": 1,
        "spec": spec,
        "profile": make_profile(),
        "files": make_files(spec.model),
    }
    return PlacementRequest(**(values | overrides))
