"""Bytes that computing one micro-batch takes: what llama.cpp reserves for the largest graph (graph_reserve)."""

from collections.abc import Iterator, Sequence
from itertools import islice
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


class Moment(NamedTuple):
    """The most bytes alive at once of one layer."""

    own: int
    received: int  # where its residual stream came from elsewhere, and is counted among the inputs


class MicroBatch(NamedTuple):
    """The sizes that the graph of one micro-batch is made of."""

    profile: ModelProfile
    options: EngineOptions
    shape: CacheShape
    tokens: int
    rows: int  # results: of each token when embedding, else of each slot's last
    residual: int  # bytes of one row of embedding_length a token
    moments: tuple[Moment, ...] = ()  # of each layer
    taken: tuple[int, ...] = ()  # elements a token that a device takes in, for each layer that can be its first

    @classmethod
    def of(cls, profile: ModelProfile, options: EngineOptions, shape: CacheShape, context: int) -> "MicroBatch":
        """Of a model with `options`, whose slots have `context` tokens and whose cache has `shape`."""
        tokens = micro_batch_tokens(profile, options, context)
        tokens = -(-tokens // options.slots) * options.slots  # the graph takes equally many of each slot
        rows = tokens if embeds(profile, options) else options.slots
        batch = cls(profile, options, shape, tokens, rows, residual=_F32 * tokens * profile.embedding_length)
        return batch._replace(
            moments=tuple(batch._all_moments()),
            taken=tuple(batch._taken_in(start) for start in range(profile.block_count)),
        )

    @property
    def results(self) -> int:
        """Bytes of the rows handed to the server; embedding, llama.cpp makes room for logits too."""
        embedding = self.profile.embedding_length if embeds(self.profile, self.options) else 0
        return _F32 * self.rows * (self.profile.vocabulary + embedding)

    def device(self, start: int, end: int, *, copies: int) -> int:
        """Bytes on the device of layers `start` to `end`, whose inputs it keeps `copies` times."""
        return next(islice(self.devices(end, copies=copies), end - start - 1, None))

    def devices(self, end: int, *, copies: int) -> Iterator[int]:
        """Bytes on a device with the layers from each start to before `end`: from `end` - 1, then back to 0.

        A layer more at the front changes a few sums and maxima, so that each takes the time of one layer.
        """
        profile, residual, per_layer = self.profile, self.residual, self.per_layer
        layers = profile.layers[:end]
        ending = 0  # bytes alive while the output layer works
        if end > len(layers):
            ending = self._ending(0)
            yield self._output_alone(copies)
        handed_on = self._handed_on(end)
        inputs = self.inputs(())
        kept: list[LayerShape] = []  # those that the inputs depend on
        widest = [-1, -1]  # of their values: in layers with the whole context, and with a window
        peak = experts = 0  # peak: of all layers but the first
        for start in reversed(range(len(layers))):
            layer, (own, received) = layers[start], self.moments[start]
            if layer.key_width and layer.value_width > widest[layer.windowed]:
                widest[layer.windowed] = layer.value_width
                kept.append(layer)
                inputs = self.inputs(kept)
            if layer.experts_used > experts:
                experts = layer.experts_used
                if end > len(layers):
                    ending = self._ending(experts)
            given = inputs + per_layer
            if start or copies > 1:
                given += _F32 * self.tokens * (self.taken[start] + handed_on)
            first = received if start else own
            size = copies * given + max(peak, first, ending)
            if not start:
                size += 2 * per_layer  # they are projected here
            elif copies == 1:  # below layers on the host, inputs lie where experts' answers would have fitted
                size += residual * experts
            yield size
            if own > peak:
                peak = own

    def _output_alone(self, copies: int) -> int:
        """Bytes on a device that has the output layer only."""
        row = _F32 * self.rows * self.profile.embedding_length
        read = self.residual if self.profile.whole_output else row
        if copies == 1:  # below layers on the host, it is given what they end with
            read = self.residual * (_ENDINGS if self.profile.whole_last_layer else 1)
        return self._ending(0) + (copies + 1) * read

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
        moments = [moment.own for moment in self.moments[start:end]]
        if moments and received:
            moments[0] = self.moments[start].received
        if output:
            moments.append(
                self._ending(max((layer.experts_used for layer in self.profile.layers[start:end]), default=0))
            )
        return max(moments, default=0)

    def _ending(self, experts: int) -> int:
        """Bytes alive while the output layer works, after layers that used so many `experts` at most.

        Their answers are a hole that is not reused.
        """
        return self._logits + (_OUTPUT_ROWS + experts) * _F32 * self.rows * self.profile.embedding_length

    def _all_moments(self) -> Iterator[Moment]:
        profile, options, tokens = self.profile, self.options, self.tokens
        last = -1 if profile.whole_last_layer else profile.trunk - 1
        given = 0 if profile.encoder else profile.embedding_length
        turned = profile.embedding_length if is_quantised(options.cache_type) else 0
        states = _STATES * (options.slots - 1)
        streams = 2 * (profile.streams - 1) * self.residual
        for index, layer in enumerate(profile.layers):
            rows = self.rows if index == last else tokens  # its feed-forward part works on the answered rows alone
            mixed = tokens * max(layer.attention + turned, layer.mixing)
            state = states * layer.state if layer.mixing else 0
            scores, beside = self._scores(layer), streams + self._chosen(layer)
            halved = self._halved(layer)
            own, received = (
                max(max(_F32 * max(rows * feed_forward, mixed) + state, scores) + beside, halved)
                for feed_forward in (layer.feed_forward, layer.feed_forward - given)
            )
            yield Moment(own, received)

    def _chosen(self, layer: LayerShape) -> int:
        """Scores that the cells are chosen by, where a model chooses them."""
        if not self.profile.indexed or not layer.attends:
            return 0
        return _INDEX_SCORES * _F32 * self.tokens * self.shape.of(layer) // self.shape.streams

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
        if self.options.flash_attention or not (layer.attends or self.profile.encoder):
            return 0
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

    def _taken_in(self, start: int) -> int:
        """Elements a token that a device whose first layer is `start` takes in, in each copy of a pipeline."""
        layers, row = self.profile.layers, self.profile.embedding_length
        elements = row * (2 if start == 0 and self.profile.positioned else 3 * self.profile.streams - 2)
        if start:
            before, taken_in = layers[start - 1], layers[start].taken_in
            if before.state:
                elements += taken_in if before.handed_on else min(taken_in, row)
            elif not layers[start].state:
                elements += taken_in
        return elements

    def _handed_on(self, end: int) -> int:
        """Elements a token that a device whose last layer is before `end` hands on, in each copy of a pipeline."""
        layers, elements = self.profile.layers, 0
        if 0 < end < len(layers) and layers[end].taken_in:
            elements += layers[end - 1].handed_on
        if is_quantised(self.options.value_cache_type) and any(layer.state for layer in layers):
            elements += self.profile.embedding_length  # an attention's result is turned back on the other side
        return elements

    def converted(self, layers: Sequence[LayerShape]) -> int:
        """Bytes, on the CPU, of the widest activations as the weights' type wants them (ggml's work buffer)."""
        widest = max((layer.feed_forward // 3 for layer in layers), default=0)
        return max(2 * self.tokens * widest, self.residual // 2)
