"""A stand-in for Stoker's API: the real schemas, errors and watch streams over a state that a test scripts.

    with FakeApi().running() as api: …  # api.url, api.admin_key

Deployments live through `steps`, a list of their instances at successive moments: each look of a watch sees the next
one, and the last one stays. What was asked for is in `requests`.
"""

from tests.fakes.api.app import FakeApi
from tests.fakes.api.openai import chat_answer
from tests.fakes.api.state import Asked, Deployed
from tests.fakes.api.values import (
    CREATED_AT,
    Steps,
    make_group,
    make_instance,
    make_measured,
    make_placement,
    make_unplaceable,
    usual_life,
)

__all__ = [
    "CREATED_AT",
    "Asked",
    "Deployed",
    "FakeApi",
    "Steps",
    "chat_answer",
    "make_group",
    "make_instance",
    "make_measured",
    "make_placement",
    "make_unplaceable",
    "usual_life",
]
