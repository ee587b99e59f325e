"""Keys, tokens and the files that hold them."""

import hmac
import os
import stat
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker import secrets
from stoker.secrets import ServerSecret, agent_key, engine_key, key_id_of, new_key, read_or_make

SECRET = "x" * 32


def test_a_key_is_a_prefix_an_id_and_256_random_bits() -> None:
    made = [new_key() for _ in range(200)]
    for key_id, key in made:
        assert key.startswith(f"sk-stoker-{key_id}-")
        assert len(key_id) == 12
        assert len(key) == len("sk-stoker-") + 12 + 1 + 43, "always of one length"
        assert key_id_of(key) == key_id, "also where the random part has a dash"
        assert key.isascii()
        assert key.isprintable()
    assert len({key for _, key in made}) == len(made)


@pytest.mark.parametrize(
    "text", ["", "sk-stoker-", "sk-stoker-abc", "sk-stoker-abc-", "sk-other-abc-def", "abc-def", " sk-stoker-a-b"]
)
def test_what_is_not_written_like_a_key(text: str) -> None:
    assert key_id_of(text) is None


@given(st.text())
def test_anything_may_be_shown_as_a_key(text: str) -> None:
    found = key_id_of(text)
    assert found is None or text.startswith(f"sk-stoker-{found}-")


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (secrets.new_join_token, "st-join-"),
        (secrets.new_worker_credential, "st-worker-"),
        (secrets.new_secret, ""),
    ],
)
def test_tokens_are_told_apart_by_their_prefix_and_never_the_same(make: object, prefix: str) -> None:
    assert callable(make)
    made = {make() for _ in range(100)}
    assert len(made) == 100
    assert {(token.startswith(prefix), len(token)) for token in made} == {(True, len(prefix) + 43)}


def test_what_is_stored_is_a_digest_that_only_the_server_can_check() -> None:
    server, other = ServerSecret(SECRET), ServerSecret("y" * 32)
    digest = server.digest("the key")
    assert len(digest) == 64
    assert "the key" not in digest
    assert server.matches("the key", digest)
    assert not server.matches("the kez", digest)
    assert not other.matches("the key", digest)
    assert not server.matches("the key", "")
    assert SECRET not in f"{server!r} {vars(server)!r}".replace(repr(SECRET.encode()), "")


@given(st.text(min_size=32, max_size=100), st.text())
def test_a_digest_is_an_hmac(secret: str, key: str) -> None:
    assert ServerSecret(secret).digest(key) == hmac.new(secret.encode(), key.encode(), sha256).hexdigest()


@pytest.mark.parametrize("short", ["", "x" * 31])
def test_a_secret_that_is_too_short_says_how_to_make_one(short: str) -> None:
    with pytest.raises(ValueError, match="at least 32 characters: make one with `openssl rand -hex 32`"):
        ServerSecret(short)


def test_each_engine_has_a_key_of_its_own() -> None:
    keys = {
        engine_key(secret, instance, incarnation)
        for secret in ("one host", "another")
        for instance in ("llama-a", "llama-b")
        for incarnation in (1, 2)
    }
    assert len(keys) == 8
    assert engine_key("one host", "llama-a", 1) in keys, "both sides derive the same one"
    assert agent_key("one host") not in keys
    assert agent_key("one host") != agent_key("another")
    assert {len(key) for key in keys} == {64}
    assert engine_key("s", "llama-a1", 2) != engine_key("s", "llama-a", 12)


# --- one-time join tokens -------------------------------------------------------------------------------------------


def test_a_one_time_token_names_its_clusters_authority() -> None:
    made = [secrets.new_one_time_token("ab" * 32) for _ in range(100)]
    for token_id, token in made:
        assert secrets.one_time_token(token) == secrets.OneTimeToken(id=token_id, fingerprint="ab" * 32)
        assert token.startswith("st-join-" + "ab" * 32)
    assert len({token for _, token in made}) == len({token_id for token_id, _ in made}) == len(made)


_WELL = "st-join-" + "ab" * 32 + "." + "0" * 12 + "." + "x" * 43


@pytest.mark.parametrize(
    "text",
    [
        "",
        secrets.new_join_token(),
        _WELL[:-1],
        _WELL + "x",
        _WELL + "\n",
        " " + _WELL,
        _WELL.replace("ab", "AB"),
        _WELL.replace("st-join-", "st-worker-"),
        _WELL.replace(".", "-"),
    ],
    ids=str.__len__,  # every process that runs tests names them alike, though the tokens are random
)
def test_what_is_not_written_like_a_one_time_token(text: str) -> None:
    assert secrets.one_time_token(_WELL) is not None
    assert secrets.one_time_token(text) is None


@given(st.text())
def test_anything_may_be_shown_as_a_join_token(text: str) -> None:
    assert secrets.one_time_token(text) is None


# --- what is sealed ---------------------------------------------------------------------------------------------------


@given(st.text(), st.text())
def test_what_is_sealed_can_be_read_again(text: str, bound_to: str) -> None:
    text, bound_to = (one.encode(errors="ignore").decode() for one in (text, bound_to))
    server = ServerSecret(SECRET)
    sealed = server.seal(text, purpose="p", bound_to=bound_to)
    assert sealed != server.seal(text, purpose="p", bound_to=bound_to), "never twice the same"
    assert ServerSecret(SECRET).unseal(sealed, purpose="p", bound_to=bound_to) == text


def test_what_is_sealed_is_of_no_use_elsewhere() -> None:
    server = ServerSecret(SECRET)
    sealed = server.seal("the private key", purpose="p", bound_to="b")
    assert "private" not in sealed
    for other, purpose, bound_to, text in (
        (ServerSecret("y" * 32), "p", "b", sealed),
        (server, "q", "b", sealed),
        (server, "p", "c", sealed),
        (server, "p", "b", sealed[:-8] + "AAAAAAA="),
        (server, "p", "b", ""),
        (server, "p", "b", "no base64!"),
        (server, "p", "b", "AAAA"),
    ):
        with pytest.raises(secrets.OtherSecretError, match="another secret, or changed since"):
            other.unseal(text, purpose=purpose, bound_to=bound_to)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    before = os.umask(0)
    try:
        assert read_or_make(path, "first") == "first"
    finally:
        os.umask(before)
    assert read_or_make(path, "second") == "first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_a_secret_from_elsewhere_is_taken_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from elsewhere\n\n")
    assert read_or_make(tmp_path / "secret", "mine") == "from elsewhere"


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
def test_an_empty_file_is_no_secret(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content)
    with pytest.raises(ValueError, match=r"secret is empty: remove it"):
        read_or_make(tmp_path / "secret", "mine")


MAKER = """
import sys
from hashlib import sha256
from pathlib import Path
from stoker.secrets import read_or_make
folder, mine = Path(sys.argv[1]), sys.argv[2]
print("there", flush=True)
sys.stdin.readline()
for number in range(300):
    print(read_or_make(folder / str(number), f"{mine} {number}"))
"""


def test_processes_that_make_it_at_once_all_get_the_same_one(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER, str(tmp_path), mine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for mine in ("one", "other", "third")
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "there\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    found = {maker.communicate(timeout=60)[0] for maker in makers}
    assert [maker.returncode for maker in makers] == [0, 0, 0]
    (same,) = found
    assert same.splitlines() == [(tmp_path / str(number)).read_text().strip() for number in range(300)]
    assert len(list(tmp_path.iterdir())) == 300


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        read_or_make(tmp_path / "file" / "secret", "mine")
