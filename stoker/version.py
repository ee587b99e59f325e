"""Which Stoker this is."""

from importlib.metadata import version

VERSION = version("stoker")
