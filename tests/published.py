"""Published models, 8 to 1000 billion parameters, as files of their true size without their weights.

The lengths are those of each model's config.json on the Hugging Face hub (the repository is named), as llama.cpp's
conversion writes them. Which tensor gets which type follows llama.cpp's quantiser (src/llama-quant.cpp), without an
importance matrix.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tests.architectures import encoders, mixtures, recurrent, transformers
from tests.architectures.sketch import Sketch, TypeOf, is_f32, uniform

_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}  # for rows that are no multiple of 256


def mixed(base: str, better: str, *, layers: int, experts: bool = False) -> TypeOf:
    """A quantisation of the `_M` kind: most matrices `base`, the most sensitive ones `better`."""

    def type_of(name: str, shape: tuple[int, ...]) -> str:
        if is_f32(name, shape):
            return "F32"
        match = re.match(r"blk\.(\d+)\.", name)
        layer = int(match[1]) if match else 0
        more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        kind = base
        if name == "output.weight":
            kind = "Q6_K"
        elif experts and name.endswith(("attn_k.weight", "attn_v.weight")):
            kind = "Q8_0"
        elif more and any(part in name for part in ("attn_v.weight", "attn_qkv.weight", "ffn_down")):
            kind = better
        return _FALLBACK.get(kind, kind) if shape[0] % 256 else kind

    return type_of


def mxfp4(name: str, shape: tuple[int, ...]) -> str:
    """As gpt-oss was published: experts in MXFP4, all else in Q8_0."""
    return "MXFP4" if name.endswith("_exps.weight") else uniform("Q8_0")(name, shape)


class Published(NamedTuple):
    """A published model: `sketch` makes its header."""

    source: str  # repository on the hub, whose config.json has the lengths
    sketch: Callable[[], Sketch]
    type_of: TypeOf


MODELS: dict[str, Published] = {
    "Llama-3.1-8B-Q4_K_M": Published(
        "meta-llama/Llama-3.1-8B-Instruct",
        partial(transformers.llama, 32, 4096, 32, 8, 14_336, 128_256, 131_072, rope_factors=True),
        mixed("Q4_K", "Q6_K", layers=32),
    ),
    "Llama-3.3-70B-Q4_K_M": Published(
        "meta-llama/Llama-3.3-70B-Instruct",
        partial(transformers.llama, 80, 8192, 64, 8, 28_672, 128_256, 131_072, rope_factors=True),
        mixed("Q4_K", "Q6_K", layers=80),
    ),
    "Llama-3.1-405B-Q4_K_M": Published(
        "meta-llama/Llama-3.1-405B-Instruct",
        partial(transformers.llama, 126, 16_384, 128, 8, 53_248, 128_256, 131_072, rope_factors=True),
        mixed("Q4_K", "Q6_K", layers=126),
    ),
    "Qwen2.5-32B-Q5_K_M": Published(
        "Qwen/Qwen2.5-32B-Instruct",
        partial(transformers.qwen2, 64, 5120, 40, 8, 27_648, 152_064, 32_768, tied=False),
        mixed("Q5_K", "Q6_K", layers=64),
    ),
    "Qwen3-8B-Q8_0": Published(
        "Qwen/Qwen3-8B",
        partial(transformers.qwen3, 36, 4096, 32, 8, 128, 12_288, 151_936, 40_960),
        uniform("Q8_0"),
    ),
    "Qwen3-30B-A3B-Q4_K_M": Published(
        "Qwen/Qwen3-30B-A3B",
        partial(mixtures.qwen3moe, 48, 2048, 32, 4, 128, 128, 8, 768, 151_936, 40_960),
        mixed("Q4_K", "Q6_K", layers=48),
    ),
    "Qwen3-235B-A22B-Q4_K_M": Published(
        "Qwen/Qwen3-235B-A22B",
        partial(mixtures.qwen3moe, 94, 4096, 64, 4, 128, 128, 8, 1536, 151_936, 40_960),
        mixed("Q4_K", "Q6_K", layers=94),
    ),
    "Mixtral-8x22B-Q4_K_M": Published(
        "mistralai/Mixtral-8x22B-Instruct-v0.1",
        partial(transformers.llama, 56, 6144, 48, 8, 16_384, 32_768, 65_536, experts=8, experts_used=2),
        mixed("Q4_K", "Q6_K", layers=56, experts=True),
    ),
    "Phi-4-14B-Q4_K_M": Published(
        "microsoft/phi-4",
        partial(transformers.phi3, 40, 5120, 40, 10, 17_920, 100_352, 16_384),
        mixed("Q4_K", "Q6_K", layers=40),
    ),
    "gemma-2-27b-Q4_K_M": Published(
        "google/gemma-2-27b-it",
        partial(transformers.gemma2, 46, 4608, 32, 16, 128, 36_864, 256_000, 8192, 4096),
        mixed("Q4_K", "Q6_K", layers=46),
    ),
    "gemma-3-27b-Q4_K_M": Published(
        "google/gemma-3-27b-it",
        partial(transformers.gemma3, 62, 5376, 32, 16, 128, 21_504, 262_208, 131_072, 1024),
        mixed("Q4_K", "Q6_K", layers=62),
    ),
    "gpt-oss-20b-MXFP4": Published(
        "openai/gpt-oss-20b", partial(mixtures.gpt_oss, 24, 2880, 64, 8, 64, 32, 4, 2880, 201_088, 131_072), mxfp4
    ),
    "gpt-oss-120b-MXFP4": Published(
        "openai/gpt-oss-120b", partial(mixtures.gpt_oss, 36, 2880, 64, 8, 64, 128, 4, 2880, 201_088, 131_072), mxfp4
    ),
    "Command-R7B-Q4_K_M": Published(
        "CohereForAI/c4ai-command-r7b-12-2024",
        partial(transformers.cohere2, 32, 4096, 32, 8, 14_336, 256_000, 132_096, 4096),
        mixed("Q4_K", "Q6_K", layers=32),
    ),
    "Command-A-111B-Q4_K_M": Published(
        "CohereForAI/c4ai-command-a-03-2025",
        partial(transformers.cohere2, 64, 12_288, 96, 8, 36_864, 256_000, 131_072, 4096),
        mixed("Q4_K", "Q6_K", layers=64),
    ),
    "DeepSeek-R1-671B-Q4_K_M": Published(
        "deepseek-ai/DeepSeek-R1",
        partial(
            mixtures.deepseek2, 61, 7168, 128, 1536, 512, 64, 192, 128, 3, 18_432, 256, 8, 2048, 1, 129_280, 163_840
        ),
        mixed("Q4_K", "Q6_K", layers=61),
    ),
    "Kimi-K2-1T-Q4_K_M": Published(
        "moonshotai/Kimi-K2-Instruct",
        partial(
            mixtures.deepseek2, 61, 7168, 64, 1536, 512, 64, 192, 128, 1, 18_432, 384, 8, 2048, 1, 163_840, 131_072
        ),
        mixed("Q4_K", "Q6_K", layers=61),
    ),
    "GLM-4.5-Air-Q4_K_M": Published(
        "zai-org/GLM-4.5-Air",
        partial(mixtures.glm4moe, 47, 4096, 96, 8, 128, 1, 10_944, 128, 8, 1408, 1, 151_552, 131_072),
        mixed("Q4_K", "Q6_K", layers=47),
    ),
    "Llama-4-Scout-Q4_K_M": Published(
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        partial(mixtures.llama4, 48, 5120, 40, 8, 128, 16_384, 16, 8192, 1, 202_048, 10_485_760),
        mixed("Q4_K", "Q6_K", layers=48),
    ),
    "Qwen3-Next-80B-A3B-Q4_K_M": Published(
        "Qwen/Qwen3-Next-80B-A3B-Instruct",
        partial(recurrent.qwen3next, 48, 2048, 16, 2, 256, 512, 10, 512, 512, 128, 16, 32, 151_936, 262_144),
        mixed("Q4_K", "Q6_K", layers=48),
    ),
    "Falcon-H1-34B-Q4_K_M": Published(
        "tiiuae/Falcon-H1-34B-Instruct",
        partial(recurrent.falcon_h1, 72, 5120, 20, 4, 128, 21_504, 4096, 256, 32, 2, 261_120, 262_144),
        mixed("Q4_K", "Q6_K", layers=72),
    ),
    "Mamba-Codestral-7B-Q8_0": Published(
        "mistralai/Mamba-Codestral-7B-v0.1",
        partial(recurrent.mamba2, 64, 4096, 8192, 128, 128, 8, 32_768, 1_048_576),
        uniform("Q8_0"),
    ),
    "Jamba-1.5-Mini-52B-Q4_K_M": Published(
        "ai21labs/AI21-Jamba-1.5-Mini",
        partial(recurrent.jamba, 32, 4096, 32, 8, 14_336, 16, 2, 16, 256, 8, 4, 65_536, 262_144),
        mixed("Q4_K", "Q6_K", layers=32),
    ),
    "Jamba-1.5-Large-398B-Q4_K_M": Published(
        "ai21labs/AI21-Jamba-1.5-Large",
        partial(recurrent.jamba, 72, 8192, 64, 8, 24_576, 16, 2, 16, 512, 8, 4, 65_536, 262_144),
        mixed("Q4_K", "Q6_K", layers=72),
    ),
    "Granite-4.0-H-Small-32B-Q4_K_M": Published(
        "ibm-granite/granite-4.0-h-small",
        partial(recurrent.granite_hybrid, 40, 4096, 32, 8, 768, 72, 10, 1536, 128, 128, 1, 10, 5, 100_352, 131_072),
        mixed("Q4_K", "Q6_K", layers=40),
    ),
    "bge-m3-F16": Published("BAAI/bge-m3", partial(encoders.bert, 24, 1024, 16, 4096, 250_002, 8192), uniform("F16")),
    "bge-reranker-v2-m3-F16": Published(
        "BAAI/bge-reranker-v2-m3",
        partial(encoders.bert, 24, 1024, 16, 4096, 250_002, 8192, reranker=True),
        uniform("F16"),
    ),
}
