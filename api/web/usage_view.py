"""What was used, as a chart over time: pure functions of what the API reads."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from api.schemas.usage import UsageGroupRead
from stoker.domain.usage import UsageBy

WIDTH, HEIGHT = 1000.0, 160.0
_GAP = 0.2  # of a bar's room
_MOST_BARS = 366


class Bar(NamedTuple):
    """One hour or day. `x`, `width` and heights in the chart's own units; `y` from the top."""

    label: str
    x: float
    width: float
    written_y: float
    written_height: float
    read_y: float
    read_height: float
    requests: int
    input_tokens: int
    output_tokens: int


class Chart(NamedTuple):
    """Tokens read and written, a bar an hour or a day."""

    bars: tuple[Bar, ...]
    highest: int  # tokens of the tallest bar
    first: str
    last: str


def chart_of(groups: Sequence[UsageGroupRead], by: UsageBy, since: datetime | None, until: datetime) -> Chart | None:
    """The chart of sums by hour or day, also of those in which nothing was; None: nothing was used at all."""
    if not groups:
        return None
    step = timedelta(hours=1) if by is UsageBy.HOUR else timedelta(days=1)
    by_start = {datetime.fromisoformat(group.group).replace(tzinfo=until.tzinfo): group for group in groups}
    start = min(by_start)
    if since is not None:
        start = min(start, since.replace(minute=0, second=0, microsecond=0))
    if by is UsageBy.DAY:
        start = start.replace(hour=0)
    count = min(int((until - start) / step) + 1, _MOST_BARS)
    first = max(start, start + step * (int((until - start) / step) + 1 - count))
    moments = [first + step * index for index in range(count)]
    highest = max(group.input_tokens + group.output_tokens for group in groups)
    room = WIDTH / max(count, 1)
    bars = []
    for index, moment in enumerate(moments):
        group = by_start.get(moment)
        read, written = (group.input_tokens, group.output_tokens) if group else (0, 0)
        scale = HEIGHT / max(highest, 1)
        bars.append(
            Bar(
                label=_label(moment, by),
                x=index * room + room * _GAP / 2,
                width=room * (1 - _GAP),
                written_y=HEIGHT - written * scale,
                written_height=written * scale,
                read_y=HEIGHT - (written + read) * scale,
                read_height=read * scale,
                requests=group.requests if group else 0,
                input_tokens=read,
                output_tokens=written,
            )
        )
    return Chart(tuple(bars), highest, bars[0].label, bars[-1].label)


def _label(moment: datetime, by: UsageBy) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if by is UsageBy.HOUR else f"{moment:%Y-%m-%d}"
