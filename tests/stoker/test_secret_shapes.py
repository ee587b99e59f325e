"""Keys and tokens are taken out of what is kept of a path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.secret_shapes import key_id_within, redacted
from stoker.secrets import new_join_token, new_key, new_one_time_token, new_worker_credential

KEY_ID, KEY = new_key()


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (f"/api/v1/keys/{KEY}", f"/api/v1/keys/sk-stoker-{KEY_ID}-[redacted]"),
        (f"/api/v1/keys/ {KEY} /limits", f"/api/v1/keys/ sk-stoker-{KEY_ID}-[redacted]/limits"),
        (f"key/{KEY[:40]}\n{KEY[40:]}", f"key/sk-stoker-{KEY_ID}-[redacted]"),
        (f"key/{KEY.upper()}", f"key/SK-STOKER-{KEY_ID.upper()}-[redacted]"),
        ("key/sk-stoker-cut-short", "key/sk-stoker-[redacted]"),
        ("/api/v1/keys/0123456789ab", "/api/v1/keys/0123456789ab"),
        ("/api/v1/deployments/smol-key", "/api/v1/deployments/smol-key"),
        ("/api/v1/workers/st-worker-1/drain", "/api/v1/workers/st-worker-1/drain"),
    ],
)
def test_a_key_is_named_by_its_id_only(path: str, kept: str) -> None:
    assert redacted(path) == kept


@pytest.mark.parametrize("token", [new_join_token(), new_one_time_token("0" * 64)[1], new_worker_credential()])
def test_no_token_stays(token: str) -> None:
    prefix = "-".join(token.split("-")[:2])
    assert redacted(f"/api/v1/join-tokens/{token}") == f"/api/v1/join-tokens/{prefix}-[redacted]"


@given(st.text(), st.text())
def test_a_key_stays_nowhere(before: str, after: str) -> None:
    path = before + KEY + after
    assert KEY.removeprefix(f"sk-stoker-{KEY_ID}-") not in redacted(path)
    assert redacted(redacted(path)) == redacted(path)
    assert key_id_within(path) == KEY_ID


def test_what_holds_no_key_has_no_id() -> None:
    assert key_id_within("/api/v1/keys/0123456789ab") is None
    assert key_id_within("sk-stoker-cut-short") is None
