"""What llama.cpp does with each architecture (`general.architecture`), as far as its memory depends on it.

Read from llama.cpp's sources: `src/models/*.cpp` (load_arch_hparams), `llama_model::create_memory` and
`llama_hparams`. What is in none of these tables is estimated cautiously.
"""

import re
from typing import NamedTuple


class Window(NamedTuple):
    """Which layers of an architecture have a sliding window, where the header does not list them."""

    period: int  # every such layer is full, the others windowed; 0: the header must list them
    full_first: bool = False  # the full layer is the first of each period, not the last
    size: int = 0  # tokens, when the header does not say; 0: then no layer has a window


SLIDING_WINDOW = {
    "afmoe": Window(4),
    "cohere2": Window(4),
    "cohere2moe": Window(4, full_first=True),
    "exaone-moe": Window(4, size=128),
    "exaone4": Window(4, size=4096),
    "gemma2": Window(2, size=4096),
    "gemma3": Window(6),
    "gemma3n": Window(5),
    "gemma4": Window(0),
    "gpt-oss": Window(2),
    "granite_swa": Window(0),
    "laguna": Window(4, full_first=True),
    "llama4": Window(4, size=8192),
    "maple": Window(0),
    "mellum": Window(4),
    "mimo2": Window(0),
    "muse-glimmer": Window(4),
    "olmo2": Window(4),
    "plamo3": Window(8),
    "smallthinker": Window(4, full_first=True),
    "spark2_5": Window(0),
    "step35": Window(0),
}
FIXED_WINDOW = {"llama4": 8192, "smallthinker": 4096}  # tokens: llama.cpp takes these, whatever size the header says
EXAONE4_WINDOWED_LAYERS = 64  # only the model of so many layers (32B) has windows

# All layers keep a recurrent state and no keys.
RECURRENT = frozenset({"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"})
# Recurrent are the layers without heads for keys.
HYBRID_BY_HEADS = frozenset({
    "bailingmoe3", "granitehybrid", "jamba", "kimi-linear", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "plamo2",
})  # fmt: skip
# Recurrent are all layers but each so-manieth, unless the header says otherwise.
HYBRID_BY_INTERVAL = {"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4}
# Between two devices, these hand on more than the residual stream.
CARRYING = RECURRENT | {"jamba"}
UNNORMED = frozenset({"olmo"})  # norms without weights are computed where the layer before is, and handed on too
# Every layer attends and keeps a state.
HYBRID_EVERYWHERE = frozenset({"falcon-h1"})

# No cache, and all tokens' results.
ENCODERS = frozenset({
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert",
    "nomic-bert-moe",
})  # fmt: skip
TIED_ENCODERS = frozenset({"gemma-embedding"})  # load the token embeddings a second time nevertheless

# Every layer keeps keys and values of the whole context (or, with latent attention, its compressed keys).
# Some of these files have `attention.sliding_window` (phi3, qwen2, mistral as llama): llama.cpp does not act on it.
PLAIN = frozenset({
    "apertus", "arcee", "arctic", "baichuan", "bailingmoe", "bailingmoe2", "bitnet", "bloom", "chameleon", "chatglm",
    "codeshell", "cogvlm", "command-r", "dbrx", "deci", "deepseek", "deepseek2", "deepseek2-ocr", "dots1", "ernie4_5",
    "ernie4_5-moe", "exaone", "falcon", "gemma", "glm4", "glm4moe", "gpt2", "gptneox", "granite", "granitemoe", "grok",
    "grovemoe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "hy_v3", "internlm2", "jais", "jais2", "llama",
    "llama-embed", "maincoder", "minicpm", "minicpm3", "minimax-m2", "mistral3", "mistral4", "mpt", "nemotron", "olmo",
    "olmoe", "openelm", "orion", "paddleocr", "pangu-embedded", "phi2", "phi3", "phimoe", "plamo", "plm", "qwen",
    "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe", "refact", "seed_oss", "smollm3",
    "stablelm", "starcoder", "starcoder2", "talkie", "xverse",
})  # fmt: skip

KNOWN = (
    PLAIN
    | ENCODERS
    | RECURRENT
    | HYBRID_BY_HEADS
    | HYBRID_EVERYWHERE
    | SLIDING_WINDOW.keys()
    | HYBRID_BY_INTERVAL.keys()
)

# What llama-server cannot serve by itself.
NOT_SERVED = {
    "clip": "a multimodal projector",
    "dflash": "a draft head, which works only beside its model",
    "dream": "a diffusion model, which llama-server does not generate with",
    "eagle3": "a draft head, which works only beside its model",
    "gemma4-assistant": "a draft head, which works only beside its model",
    "gptj": "an architecture that llama.cpp does not load",
    "llada": "a diffusion model, which llama-server does not generate with",
    "llada-moe": "a diffusion model, which llama-server does not generate with",
    "pockettts": "a speech model",
    "qwen3tts": "a speech model",
    "rnd1": "a diffusion model, which llama-server does not generate with",
    "graniteswitch": "a model that grows by a layer when it is loaded, whose memory Stoker cannot work out",
    "nanbeige": "a model that goes through its layers again and again, whose memory Stoker cannot work out",
    "t5": "an encoder with a decoder, which llama-server does not serve",
    "t5encoder": "an encoder that llama-server does not serve",
    "wavtokenizer-dec": "a speech model",
}

# Of the blocks for multi-token prediction, which are else not loaded, these load the tensors so named.
LOADED_PREDICTION = {
    "cohere2moe": re.compile(r"nextn\.(embed_tokens|shared_head)"),
    "hy_v3": re.compile(r"ffn_(?!norm)|exp_probs_b|nextn\.(embed_tokens|shared_head)"),
    "step35": re.compile(r"attn_(q_norm|k_norm|gate)\.|ffn_(?!norm)|exp_probs_b|nextn\.(embed_tokens|shared_head)"),
}
# Those that could have such blocks compute all tokens to the end of their last layer; others go on
# from its attention with the rows alone that are answered.
WHOLE_LAST_LAYER = frozenset({
    "bailingmoe3", "cohere2moe", "gemma4", "gpt-oss", "hy_v3", "nemotron_h", "qwen35", "qwen35moe", "qwen3next",
    "step35",
})  # fmt: skip
CUT_BEFORE_OUTPUT = frozenset({"gpt-oss", "step35"})  # of these, the output layer reads the answered rows alone
CACHED_PREDICTION = frozenset({"bailingmoe3"})  # keeps keys and values of them nevertheless

# With more layers than these, a quantised cache in several streams makes more nodes than llama.cpp's graph has room for
# (llama_context::graph_max_nodes counts tensors, and these fuse theirs): it aborts.
FEW_NODES = {"phi3": 32}

NO_FLASH_ATTENTION = frozenset({"grok"})  # llama.cpp switches it off
PADDED_VALUES = frozenset({"deci"})  # without flash attention, layers without heads have values in the cache too

PER_LAYER = {"gemma3n": 256}  # elements a token and layer of its own embeddings, when the header does not say
STREAMS = {"gemma3n": 4}  # rows of its residual stream (altup)
GEMMA3N_CACHED_LAYERS = 20  # its later layers use the caches of earlier ones
