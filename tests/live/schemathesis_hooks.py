"""What schemathesis loads before it asks a throw-away system (tests/schemathesis_run.py): SCHEMATHESIS_HOOKS.

Its made-up requests are kept from three things only: from waiting for streams that have no end, from taking away the
key that they are made with, and from being about models that are not there, all of them. What is no failure:

- a key that was revoked is still shown, with the moment of that;
- a deployment that was deleted is shown until its processes have ended;
- a model that was asked for by an address cannot be looked at: there is no network here; nor one in a file, once the
  only worker has been drained or removed.
"""

import os
from typing import Any

import schemathesis

MODEL = os.environ["RUN_MODEL"]
KEY_ID = os.environ["RUN_KEY_ID"]

NO_KEY = "0" * 12
MOST_TOKENS = 8
NOT_HERE = tuple(b'"code":"%s"' % code for code in (b"url_unavailable", b"hub_unavailable", b"no_worker"))
SHOWN_AFTERWARDS = {"/api/v1/keys/{key_id}": b'"revoked_at":"', "/api/v1/deployments/{name}": b'"deleting"'}
_LIMITS = {"/v1/responses": "max_output_tokens"}
_ENDLESS = frozenset({"watch", "follow"})
_TRUE = frozenset({"true", "1", "yes", "y", "on", "t"})


def bounded(path: str, body: Any) -> Any:
    """The body, about a model that is there, and for an answer that is short."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return body
    # Some go to models that do not exist: by the length of the name, so that a found failure is found again.
    if body["model"] and len(body["model"]) % 4:
        body = body | {"model": MODEL}
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"):
        limit = body.get(name)
        if isinstance(limit, int | float) and not isinstance(limit, bool) and (limit < 0 or limit > MOST_TOKENS):
            body = body | {name: MOST_TOKENS} if limit == limit // 1 and -1 <= limit < 2**31 else body
    named = {"max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"} & body.keys()
    if not any(body[name] is not None for name in named):
        body = body | {_LIMITS.get(path, "max_tokens"): MOST_TOKENS}
    return body


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Changes a request before it goes out."""
    parameters = case.path_parameters or {}
    if parameters.get("key_id") == KEY_ID and case.method in ("DELETE", "PATCH"):
        case.path_parameters = {**parameters, "key_id": NO_KEY}
    for name in _ENDLESS & (case.query or {}).keys():
        if str(case.query[name]).lower() in _TRUE:
            case.query = {**case.query, name: "false"}
    answers = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
    if case.operation.path in answers:
        case.body = bounded(case.operation.path, case.body)


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether it is one."""
    name = type(failure).__name__
    if name == "UseAfterFree":
        mark = SHOWN_AFTERWARDS.get(case.operation.path)
        return mark is None or mark not in response.content
    if name == "EnsureResourceAvailability":  # it was the run's own key, which is spared
        return (case.path_parameters or {}).get("key_id") != NO_KEY
    if name == "ServerError":
        return not (response.status_code == 503 and any(code in response.content for code in NOT_HERE))
    return True
