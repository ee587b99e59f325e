"""What it means for whoever asked that a short workflow, run for his question, gave no answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from api.errors import STATUS_BY_CODE, ProblemError, TemporalAwayError


@contextmanager
def asked_for(unanswered: Callable[[], TemporalAwayError], *, otherwise: str) -> Iterator[None]:
    """Turns what the call raises into a ProblemError. `unanswered`: where nobody did the work in time.

    `otherwise`: the code of a refusal whose own is not known here.
    """
    try:
        yield
    except WorkflowFailureError as error:
        cause = error.cause
        if isinstance(cause, ApplicationError):
            code = cause.type if cause.type in STATUS_BY_CODE else otherwise
            raise ProblemError(code, cause.message) from error
        raise unanswered() from error
    except TimeoutError as error:
        raise unanswered() from error
    except (RPCError, RuntimeError) as error:
        raise TemporalAwayError("temporal_unavailable", f"Temporal does not answer: {error}") from error
