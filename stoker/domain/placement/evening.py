"""The same devices in the same order, filled evenly: none is to be full while another is half empty."""

from stoker.domain.placement.cover import Chain, Spans

_PARTS = 1 << 10  # of a room, as finely as they are told apart


def balanced(spans: Spans, chain: Chain) -> Chain:
    """`chain` with each device filled to as even a part of its room as the layers allow."""
    low, high = 0, _PARTS
    best = chain
    while low < high:
        part = (low + high) // 2
        if (counts := _evenly(spans, chain, part)) is None:
            low = part + 1
        else:
            best, high = chain._replace(counts=counts), part
    return best


def _evenly(spans: Spans, chain: Chain, part: int) -> tuple[int, ...] | None:
    """Layers of each when none is filled by more than `part` of its room, as even as that allows."""
    if not _is_enough(spans, chain, len(chain.rooms), spans.end, part):
        return None
    position, counts = spans.end, []
    for left in reversed(range(len(chain.rooms))):
        room = chain.rooms[left]
        low = _lowest(spans, chain, left, position, part)
        share = -(-(position - chain.first) * room.free // sum(other.free for other in chain.rooms[: left + 1]))
        fair = max(low, position - max(1, share))
        while fair > low and not _is_enough(spans, chain, left, fair, part):
            fair -= 1
        counts.append(position - fair)
        position = fair
    return tuple(reversed(counts)) if position == chain.first else None


def _is_enough(spans: Spans, chain: Chain, count: int, position: int, part: int) -> bool:
    """Whether the `count` lowest devices hold all layers before `position`, each one at least."""
    for left in reversed(range(count)):
        low = _lowest(spans, chain, left, position, part)
        if low >= position:
            return False
        position = low
    return position == chain.first


def _lowest(spans: Spans, chain: Chain, left: int, position: int, part: int) -> int:
    """How far down that device reaches within `part` of its room, when the `left` below it keep a layer each."""
    room = chain.rooms[left]
    free = room.free * part // _PARTS
    low = spans.start(position, free, room.on_gpu)
    least = chain.first + left
    if low >= least:
        return low
    return least if least < position and spans.cost(least, position, room.on_gpu) <= free else position
