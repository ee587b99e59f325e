"""Bytes that computing one micro-batch takes: what llama.cpp reserves for the largest graph (graph_reserve)."""

from collections.abc import Sequence
from typing import NamedTuple

from stoker.domain.deployments import CacheType, EngineOptions
from stoker.domain.estimation.cache import CacheShape, embeds, is_quantised, micro_batch_tokens
from stoker.domain.gguf import LayerShape, ModelProfile

COPIES = 4  # of a graph's inputs when devices work in a pipeline (ggml's GGML_SCHED_MAX_COPIES)
_INDICES = 40  # bytes a token: ids, positions and cell numbers of a micro-batch
_F16 = 2
_F32 = 4
_INDEX = 8
_ROTATED = 64  # elements: quantised keys and values are turned in pieces of so many
_OUTPUT_ROWS = 3  # of embedding_length beside the logits
_INDEX_SCORES = 4  # of every cell, alive at once while cells are chosen
_ENDINGS = 5  # rows of all tokens that the output layer alone is given by a host
_STATES = 3  # of a recurrent layer: read, joined with the batch, and written, for each slot but the first


class MicroBatch(NamedTuple):
    """The sizes that the graph of one micro-batch is made of."""

    profile: ModelProfile
    options: EngineOptions
    shape: CacheShape
    tokens: int
    rows: int  # results: of each token when embedding, else of each slot's last
    residual: int  # bytes of one row of embedding_length a token

    @classmethod
    def of(cls, profile: ModelProfile, options: EngineOptions, shape: CacheShape, context: int) -> "MicroBatch":
        """Of a model with `options`, whose slots have `context` tokens and whose cache has `shape`."""
        tokens = micro_batch_tokens(profile, options, context)
        tokens = -(-tokens // options.slots) * options.slots  # the graph takes equally many of each slot
        rows = tokens if embeds(profile, options) else options.slots
        return cls(profile, options, shape, tokens, rows, residual=_F32 * tokens * profile.embedding_length)

    @property
    def results(self) -> int:
        """Bytes of the rows handed to the server; embedding, llama.cpp makes room for logits too."""
        embedding = self.profile.embedding_length if embeds(self.profile, self.options) else 0
        return _F32 * self.rows * (self.profile.vocabulary + embedding)

    def device(self, start: int, end: int, *, copies: int) -> int:
        """Bytes on the device of layers `start` to `end`, whose inputs it keeps `copies` times."""
        layers, output = self.profile.layers[start:end], end > self.profile.block_count
        if not layers:
            row = _F32 * self.rows * self.profile.embedding_length
            read = self.residual if self.profile.whole_output else row
            if copies == 1:  # below layers on the host, it is given what they end with
                read = self.residual * (_ENDINGS if self.profile.whole_last_layer else 1)
            return self._logits + _OUTPUT_ROWS * row + (copies + 1) * read
        inputs = self.inputs(layers)
        if start or copies > 1:
            inputs += self._between_devices(start, end)
        inputs += self.per_layer
        size = copies * inputs + self.peak(start, end, output=output, received=start > 0)
        if not start:
            size += 2 * self.per_layer  # they are projected here
        if start and copies == 1:  # below layers on the host, inputs lie where experts' answers would have fitted
            size += self.residual * max(layer.experts_used for layer in layers)
        return size

    @property
    def per_layer(self) -> int:
        """Bytes of the embeddings that each layer has of its own: every device is given those of all layers."""
        return _F32 * self.tokens * self.profile.per_layer_embedding * self.profile.trunk

    def inputs(self, layers: Sequence[LayerShape]) -> int:
        """Bytes of the attention masks and indices that `layers` need."""
        element = _F16 if self.options.flash_attention else _F32
        if self.profile.encoder:
            masks = 2 if self.profile.sliding_window else 1
            return self.tokens * (element * self.tokens * masks + _INDICES)
        total = self.tokens * _INDICES
        for windowed in (False, True):
            kept = [layer for layer in layers if layer.attends and layer.windowed is windowed]
            if kept:
                total += self.tokens * element * (self.shape.windowed if windowed else self.shape.cells)
                total += self._rotations(windowed)
                total += self.tokens * _F32 * self.shape.cells if self.profile.indexed else 0
                if not self.options.flash_attention:  # values lie transposed: they are written one by one
                    total += self.tokens * _INDEX * max(layer.value_width for layer in kept)
        return total

    def peak(self, start: int, end: int, *, output: bool, received: bool) -> int:
        """The most bytes alive at once of layers `start` to `end`, and of the output layer if `output`.

        `received`: the first layer's residual stream came from elsewhere, and is counted among the inputs.
        """
        layers = self.profile.layers[start:end]
        moments = [self._moment(layer, start + index, received and index == 0) for index, layer in enumerate(layers)]
        if output:
            answers = max((layer.experts_used for layer in layers), default=0)  # of experts: a hole that is not reused
            moments.append(self._logits + (_OUTPUT_ROWS + answers) * _F32 * self.rows * self.profile.embedding_length)
        return max(moments, default=0)

    def _moment(self, layer: LayerShape, index: int, received: bool) -> int:
        last = index == self.profile.trunk - 1 and not self.profile.whole_last_layer
        rows = self.rows if last else self.tokens  # the last one's feed-forward part works on the answered rows alone
        given = self.profile.embedding_length if received and not self.profile.encoder else 0
        others = self.options.slots - 1
        turned = self.profile.embedding_length if is_quantised(self.options.cache_type) else 0
        size = _F32 * max(
            rows * (layer.feed_forward - given), self.tokens * max(layer.attention + turned, layer.mixing)
        )
        size += _STATES * others * layer.state if layer.mixing else 0
        if not self.options.flash_attention and (layer.attends or self.profile.encoder):
            size = max(size, self._scores(layer))
        size += 2 * (self.profile.streams - 1) * self.residual
        if self.profile.indexed and layer.attends:
            size += _INDEX_SCORES * _F32 * self.tokens * self.shape.of(layer) // self.shape.streams
        return max(size, self._halved(layer))

    def _halved(self, layer: LayerShape) -> int:
        """Flash attention reads f32 keys and values as f16: a copy of a whole layer's (llm_graph_context)."""
        if not self.options.flash_attention or not layer.attends:
            return 0
        halved = layer.key_width if self.options.cache_type is CacheType.F32 else 0
        halved += layer.value_width if self.options.value_cache_type is CacheType.F32 else 0
        if not halved:
            return 0
        return _F16 * self.shape.of(layer) * halved + _F32 * self.tokens * 3 * layer.query_width + 3 * self.residual

    def _scores(self, layer: LayerShape) -> int:
        """Every head's score of every cell, when there is no flash attention."""
        row = _F32 * self.tokens
        if self.profile.encoder:
            return row * (layer.heads * self.tokens + layer.attention) + self.residual
        scores = row * layer.heads * (self.shape.of(layer) // self.shape.streams)
        answers = max(0, layer.experts_used - 1) * self.residual  # of the experts before: a hole that is not reused
        copied = 0  # latent attention turns the compressed keys round to read values out of them
        if not layer.value_width:
            copied = (_F32 if is_quantised(self.options.cache_type) else _F16) * self.shape.of(layer) * layer.key_width
        return scores + 2 * max(row * layer.query_width, self.residual) + 4 * self.residual + answers + copied

    @property
    def _logits(self) -> int:
        return 0 if self.profile.encoder else _F32 * self.rows * self.profile.vocabulary

    def _rotations(self, windowed: bool) -> int:
        """Bytes of the matrices that keys and values are turned with before they are quantised (llama_kv_cache)."""
        profile, options = self.profile, self.options
        key = profile.windowed_key_length if windowed else profile.key_length
        value = profile.windowed_value_length if windowed else profile.value_length
        total = 0
        if is_quantised(options.cache_type) and key and key % _ROTATED == 0:
            total += _F32 * (key & -key) ** 2  # the largest power of two in it
        if is_quantised(options.value_cache_type) and value and value % _ROTATED == 0:
            total += _F32 * _ROTATED**2
        return total

    def _between_devices(self, start: int, end: int) -> int:
        """Bytes that the device of layers `start` to `end` takes in and hands on, in each copy of a pipeline."""
        layers, row = self.profile.layers, self.profile.embedding_length
        elements = row * (2 if start == 0 and self.profile.positioned else 3 * self.profile.streams - 2)
        if 0 < start < len(layers):
            before, taken_in = layers[start - 1], layers[start].taken_in
            if before.state:
                elements += taken_in if before.handed_on else min(taken_in, row)
            elif not layers[start].state:
                elements += taken_in
        if end < len(layers) and layers[end].taken_in:
            elements += layers[end - 1].handed_on
        if is_quantised(self.options.value_cache_type) and any(layer.state for layer in layers):
            elements += row  # an attention's result is turned back on the other side
        return _F32 * self.tokens * elements

    def converted(self, layers: Sequence[LayerShape]) -> int:
        """Bytes, on the CPU, of the widest activations as the weights' type wants them (ggml's work buffer)."""
        widest = max((layer.feed_forward // 3 for layer in layers), default=0)
        return max(2 * self.tokens * widest, self.residual // 2)
