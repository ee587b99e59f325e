"""What the bar on top of each page leads to."""

from typing import NamedTuple

from stoker.domain.keys import Role


class Entry(NamedTuple):
    """One link."""

    title: str
    path: str
    role: Role = Role.ADMIN  # the least that sees it


ENTRIES = (
    Entry("Fleet", "/"),
    Entry("Deployments", "/deployments"),
    Entry("Playground", "/playground", Role.USER),
    Entry("What if", "/what-if"),
    Entry("Files", "/files"),
    Entry("Routes", "/routes"),
    Entry("Keys", "/keys"),
    Entry("Usage", "/usage", Role.USER),
)


def entries_for(role: Role) -> tuple[Entry, ...]:
    """The links that someone of this role can use."""
    return tuple(entry for entry in ENTRIES if role is Role.ADMIN or entry.role is Role.USER)


def is_current(entry: Entry, path: str) -> bool:
    """Whether the page at `path` is the entry's, or below it."""
    if entry.path == "/":
        return path in ("/", "/join") or path.startswith("/workers/")
    return path == entry.path or path.startswith(f"{entry.path}/")


def home_of(role: Role) -> str:
    """Where someone of this role begins."""
    return entries_for(role)[0].path
