"""The bound on requests that wait for a deployment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.errors import APIError
from api.openai.queueing import Queues
from api.openai.router import ModelRoute, Replica


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def route(queue: int, *slots: int, name: str = "m") -> ModelRoute:
    replicas = tuple(
        Replica(instance_id=f"{name}-{index}", host="h", port=index, slots=count) for index, count in enumerate(slots)
    )
    return ModelRoute(name=name, replicas=replicas, queue=queue)


def enter(queues: Queues, model: ModelRoute) -> int:
    """How many get in until one is refused."""
    for count in range(10_000):
        try:
            queues.enter(model)
        except APIError:
            return count
    raise AssertionError("nobody is refused")


@pytest.mark.parametrize(
    ("queue", "slots", "processes", "inside"),
    [
        (0, (4,), 1, 4),
        (0, (1,), 1, 1),
        (3, (4, 8), 1, 15),
        (128, (4,), 1, 132),
        (128, (4,), 4, 33),  # 1 of the slots, 32 of the queue
        (5, (4, 2), 4, 4),  # ceil(6/4) + ceil(5/4)
        (0, (1,), 8, 1),
    ],
)
def test_so_many_get_in(queue: int, slots: tuple[int, ...], processes: int, inside: int) -> None:
    assert enter(Queues(Clock(), processes), route(queue, *slots)) == inside


def test_who_leaves_makes_room_for_one() -> None:
    queues, model = Queues(Clock()), route(2, 1)
    assert enter(queues, model) == 3
    queues.leave("m")
    assert enter(queues, model) == 1


def test_deployments_do_not_share_their_queues() -> None:
    queues = Queues(Clock())
    assert enter(queues, route(0, 1, name="a")) == 1
    assert enter(queues, route(1, 1, name="b")) == 2
    assert queues.waiting() == {"a": 0, "b": 1}


def test_a_changed_bound_and_other_replicas_count_at_once() -> None:
    queues = Queues(Clock())
    assert enter(queues, route(0, 2)) == 2
    assert enter(queues, route(3, 2)) == 3
    assert enter(queues, route(0, 2, 4)) == 1
    assert queues.waiting() == {"m": 0}


def test_what_is_gone_is_forgotten_when_it_is_empty() -> None:
    queues = Queues(Clock())
    queues.enter(route(1, 1))
    queues.forget_all_but({})
    assert queues.waiting() == {"m": 0}
    queues.leave("m")
    queues.forget_all_but({})
    assert queues.waiting() == {}


def refusal(queues: Queues, model: ModelRoute) -> APIError:
    with pytest.raises(APIError) as caught:
        queues.enter(model)
    return caught.value


def test_the_refusal_says_all_that_clients_need() -> None:
    queues, model = Queues(Clock()), route(2, 1)
    enter(queues, model)
    error = refusal(queues, model)
    assert (error.status, error.type, error.code, error.param) == (429, "rate_limit_error", "queue_full", "model")
    assert error.message == "All slots of the model 'm' are taken and 2 requests wait for one, as many as may."
    assert error.headers == [(b"retry-after", b"1"), (b"x-should-retry", b"true")]
    assert "no request may wait" in refusal_without_queue().message


def refusal_without_queue() -> APIError:
    queues, model = Queues(Clock()), route(0, 1)
    enter(queues, model)
    return refusal(queues, model)


def test_when_to_come_again_follows_how_often_requests_end() -> None:
    clock = Clock()
    queues, model = Queues(clock), route(10, 2)
    enter(queues, model)
    for _ in range(5):  # one ends every 4 s
        clock.now += 4
        queues.leave("m")
        queues.enter(model)
    assert refusal(queues, model).retry_after == pytest.approx(4 * (10 / 2 + 1)), "when half of them are served"


def test_times_when_nobody_waited_say_nothing_of_how_often_requests_end() -> None:
    clock = Clock()
    queues, model = Queues(clock), route(2, 1)
    for _ in range(3):
        queues.enter(model)
    for pause in (1.0, 2.0, 0.0):
        clock.now += pause
        queues.leave("m")
    clock.now += 3600  # idle
    enter(queues, model)
    clock.now += 1
    queues.leave("m")
    queues.enter(model)
    assert refusal(queues, model).retry_after == pytest.approx(2.0 * 2)


@given(st.lists(st.booleans(), max_size=80), st.integers(0, 3), st.integers(1, 3))
def test_the_count_never_passes_its_bound_nor_falls_below_nothing(steps: list[bool], queue: int, slots: int) -> None:
    queues, model, inside = Queues(Clock()), route(queue, slots), 0
    for comes in steps:
        if comes:
            try:
                queues.enter(model)
            except APIError:
                assert inside == slots + queue
            else:
                inside += 1
        elif inside:
            queues.leave("m")
            inside -= 1
        assert 0 <= inside <= slots + queue
        assert queues.waiting().get("m", 0) == max(0, inside - slots)
