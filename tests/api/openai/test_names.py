"""Names that are no deployment's own: whom to ask, and whose error is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.errors import APIError, engine_failed, engine_timed_out, model_not_found
from api.openai.names import Step, created_at, draw, next_step, steps_of, target_gone, told
from api.openai.router import ModelRoute, RouteTable
from stoker.domain.model_routes import Fallback, RouteSpec, RouteTarget


def targets(**weights: int) -> tuple[RouteTarget, ...]:
    return tuple(RouteTarget(deployment=name, weight=weight) for name, weight in weights.items())


@pytest.mark.parametrize(
    ("number", "drawn"),
    [(0.0, "a"), (0.8999, "a"), (0.9, "c"), (0.9999, "c"), (1.0, "c")],  # 1.0: whoever rounds up gets one too
)
def test_the_draw_follows_the_weights(number: float, drawn: str) -> None:
    assert draw(targets(a=9, b=0, c=1), number) == drawn


@given(
    st.lists(st.integers(0, 1_000_000), min_size=1, max_size=16).filter(any),
    st.floats(0, 1, exclude_max=True),
)
def test_what_has_no_weight_is_never_drawn(weights: list[int], number: float) -> None:
    named = {f"d{index}": weight for index, weight in enumerate(weights)}
    assert named[draw(targets(**named), number)] > 0


def test_shares_come_out_as_the_weights_say() -> None:
    drawn = [draw(targets(a=1, b=3), number / 1000) for number in range(1000)]
    assert (drawn.count("a"), drawn.count("b")) == (250, 750)


def test_the_steps_are_a_target_and_the_fallbacks_in_their_order() -> None:
    spec = RouteSpec(
        name="gpt-4o",
        targets=targets(a=1, b=1),
        fallbacks=(Fallback(deployment="b", statuses=(429,)), Fallback(deployment="c", statuses=(502, 503))),
    )
    assert steps_of(spec, 0.0) == [Step("a"), Step("b", frozenset({429})), Step("c", frozenset({502, 503}))]
    assert steps_of(spec, 0.5) == [Step("b"), Step("c", frozenset({502, 503}))], "who was drawn is not asked twice"


def test_a_fallback_is_asked_after_any_of_its_statuses_and_those_before_it_are_passed_over() -> None:
    steps = [Step("b", frozenset({429})), Step("c", frozenset({502, 503})), Step("d", frozenset({503}))]
    assert next_step(steps, {503}) == Step("c", frozenset({502, 503}))
    assert next_step(steps, {503, 429}) == Step("d", frozenset({503}))
    assert next_step(steps, {503}) is None
    assert next_step([Step("b", frozenset({429}))], {500}) is None


FULL = APIError(429, "full", should_retry=True)
GONE = model_not_found("m")
BROKEN = engine_failed("broken", should_retry=False)
LATE = engine_timed_out("late")


@pytest.mark.parametrize(
    ("errors", "shown"),
    [
        ([BROKEN], BROKEN),
        ([BROKEN, LATE], BROKEN),
        ([BROKEN, FULL], FULL),  # to try again may help
        ([FULL, BROKEN], FULL),
        ([GONE, BROKEN], BROKEN),
        ([GONE], GONE),
    ],
)
def test_the_error_that_is_told(errors: list[APIError], shown: APIError) -> None:
    assert told(errors) is shown


def test_a_target_that_is_gone_is_named() -> None:
    error = target_gone("gpt-4o", "llama")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert error.message == "The model 'gpt-4o' leads to the deployment 'llama', which does not exist."


def test_a_route_is_as_old_as_the_oldest_that_it_leads_to() -> None:
    models = {name: ModelRoute(name=name, created=created) for name, created in (("a", 7), ("b", 3), ("c", 1))}
    table = RouteTable(models=models)
    assert created_at(table, RouteSpec(name="r", targets=targets(a=1, b=1, gone=1))) == 3
    assert created_at(table, RouteSpec(name="r", targets=targets(gone=1))) == 0
