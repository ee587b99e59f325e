"""Errors of the ports as Temporal understands them."""

import pytest
from temporalio.exceptions import ApplicationError

from activities.errors import as_application_errors
from activities.ports import ModelSourceError


@pytest.mark.parametrize("retryable", [True, False])
def test_a_refused_source_keeps_its_code_and_says_whether_to_try_again(retryable: bool) -> None:
    with pytest.raises(ApplicationError) as raised, as_application_errors():
        raise ModelSourceError("truncated_gguf", "half a file", retryable=retryable)
    error = raised.value
    assert (error.type, error.message, error.non_retryable) == ("truncated_gguf", "half a file", not retryable)
    assert isinstance(error.__cause__, ModelSourceError)


@pytest.mark.parametrize("error", [OSError("disk"), ValueError("bug"), ApplicationError("ours", type="x")])
def test_everything_else_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, as_application_errors():
        raise error
    assert raised.value is error


def test_nothing_wrong_is_nothing() -> None:
    with as_application_errors():
        pass
