"""Bytes that computing one micro-batch takes: what llama.cpp reserves for the largest graph (graph_reserve)."""

from collections.abc import Sequence
from typing import NamedTuple

from stoker.domain.architectures.activations import RESIDUALS
from stoker.domain.deployments import EngineOptions
from stoker.domain.estimation.cache import CacheShape, embeds, micro_batch_tokens
from stoker.domain.gguf import LayerShape, ModelProfile

COPIES = 4  # of a graph's inputs when devices work in a pipeline (ggml's GGML_SCHED_MAX_COPIES)
_INDICES = 40  # bytes a token: ids, positions and cell numbers of a micro-batch
_F32 = 4
_INDEX = 8
_STATES = 3  # of a recurrent layer: read, joined with the batch, and written, for each slot but the first


class MicroBatch(NamedTuple):
    """The sizes that the graph of one micro-batch is made of."""

    options: EngineOptions
    shape: CacheShape
    tokens: int
    residual: int  # bytes of one row of embedding_length a token
    results: int  # bytes of the rows handed to the server
    logits: int  # bytes
    encoder: bool
    masks: int  # of an encoder: one, and one more for a sliding window

    @classmethod
    def of(cls, profile: ModelProfile, options: EngineOptions, shape: CacheShape, context: int) -> "MicroBatch":
        """Of a model with `options`, whose slots have `context` tokens and whose cache has `shape`."""
        embedding = embeds(profile, options)
        tokens = micro_batch_tokens(profile, options, context)
        tokens = -(-tokens // options.slots) * options.slots  # the graph takes equally many of each slot
        rows = tokens if embedding else options.slots  # results: of each token, or of each slot's last
        return cls(
            options=options,
            shape=shape,
            tokens=tokens,
            residual=_F32 * tokens * profile.embedding_length,
            results=_F32 * rows * (profile.vocabulary + (profile.embedding_length if embedding else 0)),
            logits=0 if profile.encoder else _F32 * rows * profile.vocabulary,
            encoder=profile.encoder,
            masks=2 if profile.sliding_window else 1,
        )

    def inputs(self, layers: Sequence[LayerShape]) -> int:
        """Bytes of the attention masks and indices that `layers` need."""
        element = 2 if self.options.flash_attention else 4
        if self.encoder:
            return self.tokens * (element * self.tokens * self.masks + _INDICES)
        total = self.tokens * _INDICES
        for windowed in (False, True):
            kept = [layer for layer in layers if layer.attends and layer.windowed is windowed]
            if kept:
                total += self.tokens * element * (self.shape.windowed if windowed else self.shape.cells)
                if not self.options.flash_attention:  # values lie transposed: they are written one by one
                    total += self.tokens * _INDEX * max(layer.value_width for layer in kept)
        return total

    def peak(self, layers: Sequence[LayerShape], *, output: bool) -> int:
        """The most bytes alive at once on a device with `layers`, the output layer too if `output`."""
        row = _F32 * self.tokens
        others = self.options.slots - 1
        moments = [
            RESIDUALS * self.residual + max(row * layer.activations, row * layer.mixed + _STATES * others * layer.state)
            for layer in layers
        ]
        if not self.options.flash_attention:
            moments += [self._scores(layer) for layer in layers if layer.attends or self.encoder]
        if output:
            moments.append(self.logits + RESIDUALS * self.residual)
        return max(moments, default=0)

    def _scores(self, layer: LayerShape) -> int:
        """Every head's score of every cell, when there is no flash attention."""
        cells = self.tokens if self.encoder else self.shape.of(layer) // self.shape.streams
        query = max(_F32 * self.tokens * layer.query_width, self.residual)
        answers = max(0, layer.experts_used - 1) * self.residual  # of the experts before: a hole that is not reused
        return _F32 * self.tokens * layer.heads * cells + 2 * query + 2 * self.residual + answers

    def between_devices(self, layers: Sequence[LayerShape], start: int, end: int) -> int:
        """Bytes that the device of `layers[start:end]` takes in and hands on, in each copy of a pipeline."""
        elements = 0
        if 0 < start < len(layers) and (before := layers[start - 1]).state:
            taken_in = layers[start].taken_in
            elements += taken_in if before.handed_on else min(taken_in, self.residual // (_F32 * self.tokens))
        if end < len(layers) and layers[end].taken_in:
            elements += layers[end - 1].handed_on
        return (2 if start == 0 and self.encoder else 1) * self.residual + _F32 * self.tokens * elements

    def converted(self, layers: Sequence[LayerShape]) -> int:
        """Bytes, on the CPU, of the widest activations as the weights' type wants them (ggml's work buffer)."""
        widest = max((layer.activations // 3 for layer in layers), default=0)
        return max(2 * self.tokens * widest, self.residual // 2)
