"""What each layer keeps between two batches: keys and values, a sliding window of them, or a recurrent state."""

from typing import NamedTuple

from stoker.domain.architectures import families
from stoker.domain.architectures.keys import Keys

_MAX_WIDTH = 1 << 24  # elements
_MAX_STATE = 1 << 36  # bytes
_F32 = 4  # bytes: recurrent states are kept in full precision


class Heads(NamedTuple):
    """Attention heads of each layer, and the elements that one of them has."""

    query: tuple[int, ...]
    cached: tuple[int, ...]  # heads of keys and values
    key_length: int
    value_length: int
    windowed_key_length: int  # of layers with a sliding window
    windowed_value_length: int

    @classmethod
    def of(cls, keys: Keys, layers: int, embedding_length: int) -> "Heads":
        """As llama_model_base::load_hparams reads them."""
        query = keys.per_layer("attention.head_count", layers)
        cached = (
            keys.per_layer("attention.head_count_kv", layers, None) if keys.has("attention.head_count_kv") else query
        )
        first = query[0] if query else 0
        size = embedding_length // first if first else 0
        key = keys.number("attention.key_length", size) if first else 0
        value = keys.number("attention.value_length", size) if first else 0
        return cls(
            query=query,
            cached=cached,
            key_length=key,
            value_length=value,
            windowed_key_length=keys.number("attention.key_length_swa", key),
            windowed_value_length=keys.number("attention.value_length_swa", value),
        )


class Memory(NamedTuple):
    """What one layer keeps. Widths in elements a cell, the state in bytes a slot."""

    key_width: int
    value_width: int
    windowed: bool
    state: int


def memory_of_layers(keys: Keys, heads: Heads, layers: int, predicting: int) -> list[Memory]:
    """What llama.cpp keeps of each of `layers` layers (llama_model::create_memory).

    The last `predicting` of them are for multi-token prediction and keep nothing, as they are not loaded.
    """
    if keys.architecture in families.ENCODERS:
        return [Memory(0, 0, False, 0)] * layers
    trunk = layers if keys.architecture in families.CACHED_PREDICTION else layers - predicting
    windowed, recurrent = _windowed(keys, heads, layers, trunk), _recurrent(keys, heads, layers, trunk)
    cached = caching_layers(keys, layers)
    # Latent attention keeps compressed keys; the values are worked out of them.
    latent = keys.number("attention.key_length_mla") > 0 and keys.number("attention.value_length_mla") > 0
    state = _state(keys, heads)
    unknown = keys.architecture not in families.KNOWN
    everywhere = unknown or keys.architecture in families.HYBRID_EVERYWHERE
    # Sparse attention looks its cells up by keys of their own, of one head; architectures that are known have none.
    index_width = keys.number("attention.indexer.key_length") if unknown else 0
    index_keys = index_width * (3 if keys.number("attention.indexer.kpool") else 1)
    found = []
    for index in range(layers):
        attends = index < min(cached, trunk) and (not recurrent[index] or everywhere)
        count = heads.cached[index] if attends else 0
        key, value = (
            (heads.windowed_key_length, heads.windowed_value_length)
            if windowed[index]
            else (heads.key_length, heads.value_length)
        )
        found.append(
            Memory(
                key_width=count * key + (index_keys if attends else 0),
                value_width=0 if latent else count * value + (heads.value_length if attends and index_width else 0),
                windowed=windowed[index],
                state=state if recurrent[index] and index < trunk else 0,
            )
        )
    if any(max(memory.key_width, memory.value_width) > _MAX_WIDTH or memory.state > _MAX_STATE for memory in found):
        raise ValueError(f"{keys.architecture}: a layer's heads or state are larger than any model's")
    return found


def sliding_window(keys: Keys, layers: int) -> int:
    """Tokens that a layer with a window attends to; 0 when no layer has one."""
    window = families.SLIDING_WINDOW.get(keys.architecture)
    if window is None:
        others = keys.architecture in families.ENCODERS or keys.architecture == "lfm2"
        return keys.number("attention.sliding_window") if others else 0
    if keys.architecture == "exaone4" and layers != families.EXAONE4_WINDOWED_LAYERS:
        return 0
    size = keys.number("attention.sliding_window", window.size)
    return families.FIXED_WINDOW.get(keys.architecture, size) if size else 0


def _windowed(keys: Keys, heads: Heads, layers: int, trunk: int) -> tuple[bool, ...]:
    if not sliding_window(keys, trunk):
        return (False,) * layers
    window = families.SLIDING_WINDOW.get(keys.architecture)
    if window is None:  # lfm2: whatever is not recurrent; encoders keep no cells at all
        return tuple(count > 0 for count in heads.cached)
    if (listed := keys.flags("attention.sliding_window_pattern", layers)) is not None:
        return listed
    period = keys.number("attention.sliding_window_pattern", window.period)
    full = 0 if window.full_first else period - 1
    return tuple(index < trunk and (period == 0 or index % period != full) for index in range(layers))


def _recurrent(keys: Keys, heads: Heads, layers: int, trunk: int) -> tuple[bool, ...]:
    architecture = keys.architecture
    if architecture in families.RECURRENT or architecture in families.HYBRID_EVERYWHERE:
        return (True,) * layers
    if architecture in families.HYBRID_BY_HEADS:
        # nemotron_h: layers that are feed-forward only have no heads either, and keep nothing
        feed_forward = keys.per_layer("feed_forward_length", layers)
        only = [width > 0 and architecture.startswith("nemotron_h") for width in feed_forward]
        return tuple(count == 0 and not skip for count, skip in zip(heads.cached, only, strict=True))
    if (period := families.HYBRID_BY_INTERVAL.get(architecture)) is not None:
        if (listed := keys.flags("attention.recurrent_layers", layers)) is not None:
            return listed
        period = keys.number("full_attention_interval", period) or 1
        return tuple(index < trunk and (index + 1) % period != 0 for index in range(layers))
    # An architecture that is not known keeps whatever it has keys for, in every layer.
    return (architecture not in families.KNOWN and _state(keys, heads) > 0,) * layers


def caching_layers(keys: Keys, layers: int) -> int:
    """How many layers, from the first, have a cache of their own; the others read that of one of these."""
    if keys.architecture == "gemma3n":
        return min(layers, families.GEMMA3N_CACHED_LAYERS)
    return max(0, layers - keys.number("attention.shared_kv_layers")) if keys.architecture == "gemma4" else layers


def _state(keys: Keys, heads: Heads) -> int:
    """Bytes of one recurrent layer's state for one slot (llama_hparams::n_embd_r and n_embd_s)."""
    embedding_length = keys.number("embedding_length")
    query = heads.query[0] if heads.query else 0
    if (size := keys.number("wkv.head_size")) > 0:
        return _F32 * embedding_length * (keys.number("token_shift_count", 2) + size)
    if (cached := keys.number("shortconv.l_cache")) > 0:
        return _F32 * embedding_length * (cached - 1)
    kernel, inner, state = (keys.number(f"ssm.{key}") for key in ("conv_kernel", "inner_size", "state_size"))
    if (size := keys.number("kda.head_dim")) > 0:
        return _F32 * query * size * (3 * (kernel - 1 if kernel else 3) + size)
    convolved = max(0, kernel - 1) * (inner + 2 * keys.number("ssm.group_count") * state)
    if keys.architecture == "minimax-01":
        return _F32 * (convolved + heads.key_length**2 * query)
    return _F32 * (convolved + state * inner)
