"""What a process of `stoker server` has from its parent, and how it is told."""

from dataclasses import dataclass

LISTENER_FLAG, PARENT_FLAG = "--listener-descriptor", "--parent-descriptor"

READY = b"ready\n"
"""What it writes to the parent's socket, once, when it answers."""


@dataclass(frozen=True)
class Inherited:
    """Descriptors."""

    listener: int  # a listening socket
    parent: int  # a socket; READY goes there, and its end is the parent's end
