"""What the pages of deployments draw, worked out from what the API tells. Pure: reads in, values out.

Positions are in the units of an SVG's view box: the policy for styles forbids widths in `style` attributes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from api.schemas.deployments import DeploymentRead
from api.schemas.instances import InstanceRead
from api.schemas.memory import EstimateRead, MemoryComparisonRead, MemoryPartsRead
from api.schemas.reasons import PendingRead, PlacementRead, ShareRead, SuggestionRead
from stoker.domain.deployments import InstanceState
from stoker.domain.measured_memory import TOLERATED_ERROR
from stoker.domain.scaling import is_autoscaled, replica_bounds
from stoker.domain.units import format_bytes, format_duration

BAR_UNITS = 1000
"""Length of a bar of memory."""

HUES = 8
"""So many devices are told apart by colour; their rows and names tell all of them apart."""

TONES = {
    "running": "good",
    "progressing": "busy",
    "placing": "busy",
    "downloading": "busy",
    "starting": "busy",
    "pending": "warn",
    "backoff": "warn",
    "failed": "bad",
    "stopped": "",
    "stopping": "",
    "deleting": "",
}
"""How a state looks, of a deployment or an instance. Its word is always beside it."""

_ON_THE_WAY = (InstanceState.DOWNLOADING, InstanceState.STARTING)


class LayerRow(NamedTuple):
    """What one device holds of the model: the layers from `first` on, of `of` that there are with the output layer."""

    worker: str
    device: str
    kind: str
    first: int
    held: int
    of: int
    claimed_bytes: int
    hue: int

    @property
    def layers(self) -> range:
        """Each layer's place in the row, the model's first at 0."""
        return range(self.first, self.first + self.held)

    @property
    def words(self) -> str:
        """`layers 1 to 16`, `layers 17 to 32 and the output`, `no layer, only memory`."""
        if not self.held:
            return "no layer, only memory"
        has_output = self.first + self.held == self.of
        last = self.first + self.held - has_output
        if last == self.first:
            return "the output"
        told = f"layer {last}" if last == self.first + 1 else f"layers {self.first + 1} to {last}"
        return f"{told} and the output" if has_output else told


class Part(NamedTuple):
    """A piece of a bar: what it stands for, in bytes, and where it lies, in BAR_UNITS."""

    name: str
    size: int
    start: float
    width: float


class MemoryRow(NamedTuple):
    """One device's estimate beside what was measured there, on one scale for all rows. None: not measured."""

    device: str
    estimated: list[Part]
    measured: list[Part] | None
    off_by: str  # how far the measurement is from the estimate, the overhead left out; empty: not known
    exceeds: bool  # by more than an estimate may be off


class ProgressView(NamedTuple):
    """How far a download or a load has come."""

    fraction: float
    words: str


class SuggestedChange(NamedTuple):
    """A change that lets a waiting instance start. `body`: of a PATCH; None: not something that a deployment has."""

    text: str
    body: dict[str, Any] | None


class DeploymentLine(NamedTuple):
    """One line of the list of deployments."""

    read: DeploymentRead
    tone: str
    progress: ProgressView | None  # of the replica that is nearest to its start
    suggestions: list[SuggestedChange]  # of the first replica that waits
    places: list[str]  # WORKER/DEVICE of all running replicas, each once
    running: str  # how many of how many


def deployment_line(read: DeploymentRead) -> DeploymentLine:
    """The deployment as the list shows it."""
    on_the_way = [shown for one in read.instances if (shown := progress_view(one)) is not None]
    waiting = next((one.pending for one in read.instances if one.pending is not None), None)
    places = [
        f"{share.worker}/{share.device}"
        for one in read.instances
        if one.state is InstanceState.RUNNING and one.placement is not None
        for share in one.placement.shares
        if share.layers or _holds_rest(share, one.placement)
    ]
    return DeploymentLine(
        read=read,
        tone=TONES.get(read.state, ""),
        progress=max(on_the_way, default=None, key=lambda one: one.fraction),
        suggestions=suggested_changes(waiting) if waiting is not None else [],
        places=list(dict.fromkeys(places)),
        running=count_words(read),
    )


def count_words(read: DeploymentRead) -> str:
    """How many of its replicas answer: `1 of 2`; where demand decides, `1 of 1 (0..3)`."""
    spec = read.spec()
    bounds = " ({}..{})".format(*replica_bounds(spec)) if is_autoscaled(spec) else ""
    return f"{read.running} of {read.wanted}{bounds}"


def layer_rows(placement: PlacementRead) -> list[LayerRow]:
    """Which layers each device holds, the model's first layers first; then what only books memory.

    The engine keeps the first layers on its own host, then fills the devices in their order; the output layer is last.
    """
    on_host = placement.estimate.host.layers
    of = on_host + sum(share.layers for share in placement.shares)
    rest = [share for share in placement.shares if _holds_rest(share, placement)]
    order = [*rest, *(share for share in placement.shares if share.layers)]
    idle = [share for share in placement.shares if share not in order]
    rows, first = [], 0 if rest else on_host
    for hue, share in enumerate([*order, *idle]):
        count = share.layers or (on_host if share in rest else 0)
        rows.append(LayerRow(share.worker, share.device, share.kind, first, count, of, share.claimed_bytes, hue % HUES))
        first += count
    return rows


def memory_rows(memory: Sequence[MemoryComparisonRead]) -> list[MemoryRow]:
    """Estimate beside measurement, for each device and the host."""
    scale = max((_size(parts) for one in memory for parts in (one.estimated, one.measured) if parts), default=0)
    return [
        MemoryRow(
            device=one.device,
            estimated=_parts(one.estimated, scale),
            measured=_parts(one.measured, scale) if one.measured is not None else None,
            off_by=f"{one.error_ratio:+.2%}" if one.error_ratio is not None else "",
            exceeds=one.error_ratio is not None and one.error_ratio > TOLERATED_ERROR,
        )
        for one in memory
    ]


def estimate_parts(estimate: EstimateRead) -> list[Part]:
    """What an instance needs in all, by what it is for."""
    return _parts(estimate, sum(size for _, size in _named(estimate)))


def progress_view(instance: InstanceRead) -> ProgressView | None:
    """How far it has come, in words: `1.2 GiB of 4.58 GiB, 35 MiB/s, 1m left`, `72 % loaded`; None: nothing says so."""
    progress = instance.progress
    if instance.state not in _ON_THE_WAY or progress is None or not progress.total:
        return None
    if instance.state is InstanceState.STARTING:
        return ProgressView(progress.fraction, f"{progress.fraction:.0%} loaded".replace("%", " %"))
    words = f"{format_bytes(progress.done)} of {format_bytes(progress.total)}"
    if len(progress.files) > 1:
        words += f", {sum(file.done >= file.total for file in progress.files)} of {len(progress.files)} files"
    if progress.bytes_per_second > 0:
        left = format_duration((progress.total - progress.done) / progress.bytes_per_second)
        words += f", {format_bytes(int(progress.bytes_per_second))}/s, {left} left"
    return ProgressView(progress.fraction, words)


def suggested_changes(pending: PendingRead) -> list[SuggestedChange]:
    """What would let it start, each as the body of a change where the deployment itself can be changed so."""
    return [SuggestedChange(one.text, _body(one)) for one in pending.suggestions]


def change_body(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted fields as a PATCH has them: `{"options.slots": 1}` is `{"options": {"slots": 1}}`."""
    body: dict[str, Any] = {}
    for field, value in changes.items():
        group, _, name = field.rpartition(".")
        (body.setdefault(group, {}) if group else body)[name] = value
    return body


def _body(suggestion: SuggestionRead) -> dict[str, Any] | None:
    return change_body(suggestion.changes) if suggestion.changes else None


def _holds_rest(share: ShareRead, placement: PlacementRead) -> bool:
    """Whether it is the CPU of the main server's host, which holds what no device does."""
    of_host = share.worker == placement.worker and share.kind == "cpu" and not share.layers
    return of_host and placement.estimate.host.layers > 0


def _size(parts: MemoryPartsRead) -> int:
    return sum(size for _, size in _named(parts))


def _parts(parts: MemoryPartsRead | EstimateRead, scale: int) -> list[Part]:
    found, start = [], 0.0
    for name, size in _named(parts):
        width = BAR_UNITS * size / scale
        found.append(Part(name, size, round(start, 2), round(width, 2)))
        start += width
    return found


def _named(parts: MemoryPartsRead | EstimateRead) -> Iterable[tuple[str, int]]:
    sizes = {
        "weights": parts.weights_bytes,
        "KV cache": parts.cache_bytes,
        "compute": parts.compute_bytes,
        "output": parts.output_bytes,
        "overhead": parts.overhead_bytes or 0,
    }
    return [(name, size) for name, size in sizes.items() if size]
