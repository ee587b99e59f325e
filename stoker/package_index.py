"""What comes from the Python package index (PyPI, or the one that pip is configured for), fetched with pip.

pip need not be installed: environments made by uv have none. Then one is made from what Python itself carries.
Everything that pip writes on the way lies in the folder that the caller names.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_TIMEOUT_SECONDS = 900
_ENDING_CHARACTERS = 2000
_INHERITED = re.compile(
    r"^(PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|XDG_\w+|LD_LIBRARY_PATH|DYLD_\w+|PYTHON\w+|VIRTUAL_ENV|PIP_\w+"
    r"|(?:https?|all|no)_proxy|(?:HTTPS?|ALL|NO)_PROXY|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NETRC"
    r"|DBUS_SESSION_BUS_ADDRESS)$"
)


class PackageIndexError(Exception):
    """Something could not be had from the package index; the message says why and what to do."""


def download(requirement: str, folder: Path, *, sha256: str = "", source: bool = False) -> Path:
    """Downloads one pinned package (`name==version`) without its dependencies into `folder`; returns its file.

    A wheel, or with `source` the sdist. With `sha256` (hexadecimal), pip refuses any other file before it looks
    into it. Raises PackageIndexError.
    """
    name = requirement.partition("==")[0]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as scratch:
        wanted, fetched = Path(scratch, "requirements.txt"), Path(scratch, "fetched")
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n" if sha256 else f"{requirement}\n")
        form = ["--no-binary", name] if source else ["--only-binary", ":all:"]
        arguments = ["download", "--no-deps", *form, "--dest", str(fetched), "--requirement", str(wanted)]
        _run_pip(arguments, Path(scratch), f"could not download {requirement} from your package index")
        (file,) = fetched.iterdir()
        return file.replace(folder / file.name)


def install(requirements: Sequence[str], target: Path) -> None:
    """Installs wheels into the folder `target`, which no environment sees. Raises PackageIndexError."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".pip-") as scratch:
        arguments = ["install", "--only-binary", ":all:", "--target", str(target), *requirements]
        _run_pip(arguments, Path(scratch), f"could not install {' and '.join(requirements)} from your package index")


def _run_pip(arguments: Sequence[str], scratch: Path, failure: str) -> None:
    environment = pip_environment(os.environ) | {"TMPDIR": str(scratch)}
    command = [*_pip(scratch), *arguments]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise PackageIndexError(f"pip {failure} within {_TIMEOUT_SECONDS} s") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-_ENDING_CHARACTERS:]
        raise PackageIndexError(f"pip {failure}:\n{said}")


def pip_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What pip gets: what it reads itself. It runs the code of what it downloads, which no secret of ours concerns."""
    kept = {name: text for name, text in inherited.items() if _INHERITED.match(name)}
    return kept | {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}


def _pip(scratch: Path) -> list[str]:
    """The command of a pip: this environment's, or one made in `scratch` from Python's own copy (ensurepip)."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    made = scratch / "with-pip"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "venv", str(made)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise PackageIndexError(f"`python -m venv` gave no environment with pip within {_TIMEOUT_SECONDS} s") from None
    if done.returncode != 0:
        raise PackageIndexError(
            f"{sys.executable} has neither pip nor the means to make one (ensurepip): install pip into the environment"
            " that runs stoker (`uv pip install pip`), or Debian's python3-venv"
        )
    return [str(made / "bin" / "python"), "-m", "pip"]
