"""Errors of the ports, as Temporal understands them: the code becomes the failure's type."""

from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.exceptions import ApplicationError

from activities.ports import ModelSourceError


@contextmanager
def as_application_errors() -> Iterator[None]:
    """Turns a ModelSourceError into an ApplicationError of its code, retried only when that may help."""
    try:
        yield
    except ModelSourceError as error:
        raise ApplicationError(str(error), type=error.code, non_retryable=not error.retryable) from error
