"""All tiny models by name."""

from collections.abc import Callable
from functools import partial

from tests.architectures import encoders, mixtures, recurrent, rwkv, transformers
from tests.architectures.sketch import Sketch

DECODERS: dict[str, Callable[[], Sketch]] = {
    "llama": transformers.llama,
    "llama-tied": partial(transformers.llama, tied=True, rope_factors=True),
    "llama-moe": partial(transformers.llama, experts=4, experts_used=2, feed_forward=512),
    "qwen2": transformers.qwen2,
    "qwen3": transformers.qwen3,
    "phi3": transformers.phi3,
    "gemma2": transformers.gemma2,
    "gemma3": transformers.gemma3,
    "cohere2": transformers.cohere2,
    "command-r": transformers.command_r,
    "qwen3moe": mixtures.qwen3moe,
    "qwen2moe": mixtures.qwen2moe,
    "gpt-oss": mixtures.gpt_oss,
    "deepseek2": mixtures.deepseek2,
    "glm4moe": mixtures.glm4moe,
    "llama4": mixtures.llama4,
    "mamba": recurrent.mamba,
    "mamba2": recurrent.mamba2,
    "jamba": recurrent.jamba,
    "falcon-h1": recurrent.falcon_h1,
    "qwen3next": recurrent.qwen3next,
    "lfm2": recurrent.lfm2,
    "granitehybrid": recurrent.granite_hybrid,
    "nemotron_h": recurrent.nemotron_h,
    "rwkv6": rwkv.rwkv6,
    "rwkv7": rwkv.rwkv7,
}
EMBEDDERS: dict[str, Callable[[], Sketch]] = {
    "bert": encoders.bert,
    "bert-reranker": partial(encoders.bert, reranker=True),
    "nomic-bert": encoders.nomic_bert,
    "modern-bert": encoders.modern_bert,
    "jina-bert-v2": encoders.jina_bert_v2,
    "qwen3-reranker": partial(transformers.qwen3, reranker=True),
}
