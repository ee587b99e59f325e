"""What /metrics says of an engine's work."""

import pytest

from worker_agent.engine_metrics import EngineWork, read_work

REQUESTS = "llamacpp:requests_processing 2\nllamacpp:requests_deferred 3\n"


@pytest.mark.parametrize(
    ("text", "work"),
    [
        (f"x 1\n{REQUESTS}", EngineWork(processing=2, deferred=3)),
        (f"# HELP x y\n{REQUESTS}llamacpp:n_decode_total 17\n", EngineWork(processing=2, deferred=3, decodes=17)),
        (f"{REQUESTS}llamacpp:n_decode_total 1.2e+06\n", EngineWork(processing=2, deferred=3, decodes=1_200_000)),
    ],
)
def test_what_it_says(text: str, work: EngineWork) -> None:
    assert read_work(text) == work


@pytest.mark.parametrize("text", ["", "llamacpp:requests_processing 2\n", "llamacpp:n_decode_total 1\n"])
def test_metrics_that_do_not_count_requests_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--metrics"):
        read_work(text)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        read_work("llamacpp:requests_processing many\nllamacpp:requests_deferred 3\n")
