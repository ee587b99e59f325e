"""Which server the client commands talk to, and with which key."""

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from entrypoints.cli.errors import CliError, ExitCode

ADMIN_KEY_FILE = "admin-key"
"""As `entrypoints.data_folder.admin_key_file` has it; not imported, since that loads the whole storage."""


@dataclass(frozen=True)
class Access:
    """A server and a key for it. `key_from` says for people where the key came from, or where one was looked for."""

    url: str
    key: str = field(repr=False)  # empty: none was found
    key_from: str

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return _is_loopback(self.url)


def find_access(server: str | None) -> Access:
    """From `--server` or STOKER_SERVER, else the settings; the key from STOKER_API_KEY, else the data folder.

    The data folder's key goes to the server of the settings or to one on this machine only: `--server` must not be a
    way to send it to a stranger. Raises CliError.
    """
    url = _checked_url(server) if server else None
    if given := os.environ.get("STOKER_API_KEY", "").strip():
        if not given.isascii() or not given.isprintable() or " " in given:
            raise CliError("STOKER_API_KEY holds characters that no key has", code=ExitCode.USAGE)
        if url is not None:
            return Access(url, given, "STOKER_API_KEY")

    from entrypoints.cli.settings_flags import settings_from

    settings = settings_from({})
    url = url or settings.api_url
    if given:
        return Access(url, given, "STOKER_API_KEY")
    if url != settings.api_url and not _is_loopback(url):
        return Access(url, "", "STOKER_API_KEY, which is not set")
    path = settings.data_dir / ADMIN_KEY_FILE
    try:
        return Access(url, path.read_text().strip(), str(path))
    except FileNotFoundError:
        return Access(url, "", f"STOKER_API_KEY and {path}")
    except OSError as error:
        raise CliError(
            f"the admin key in {path} cannot be read: {error.strerror}",
            code=ExitCode.NOT_ALLOWED,
            hint="set STOKER_API_KEY to a key of your own",
        ) from error


def _checked_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise CliError(
            f"--server {text!r} is no address of a server: write it like http://127.0.0.1:8410", code=ExitCode.USAGE
        )
    return text.rstrip("/")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
