"""What the runs with several replicas make of what was asked."""

from tests.live.asked import asked, lost
from tests.live.replicas_under_load import is_streamed, is_streaming


def test_only_who_has_seen_a_part_was_streaming() -> None:
    assert is_streaming(lost("chat streamed"))
    assert not is_streaming(lost("chat streamed", first_byte=None))
    assert not is_streaming(lost("chat"))


def test_a_stream_is_asked_for() -> None:
    assert [is_streamed(asked(name)) for name in ("chat streamed", "text streamed", "chat", "text")] == [
        True,
        True,
        False,
        False,
    ]
