"""The commands that README and docs tell people to type."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^\s*```(?P<language>\S*)")
_SHELL_FENCES = ("", "sh", "bash", "shell", "console")
_SPAN = re.compile(r"`([^`\n]+)`")
_PROSE = re.compile(r"\s{2,}(?=\S)|\s+#\s")
"""What explains a command stands behind `#`, or behind several blanks."""

_ASSIGNMENT = re.compile(r"^[A-Z][A-Z0-9_]*=")
_BETWEEN = (";", "&&", "||", "|", "&")


@dataclass(frozen=True)
class Documented:
    """A command as it stands in a document. `whole`: to be typed as it is; else it stands in a sentence."""

    place: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.words)}"


def documents() -> list[Path]:
    """README, CONTRIBUTING and docs, without the decisions: those tell of what was typed then."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def documented(program: str) -> list[Documented]:
    """Every use of `program` in the documents."""
    return [command for path in documents() for command in commands_in(path.read_text(), path.name, program)]


def commands_in(text: str, name: str, program: str) -> Iterator[Documented]:
    """Every use of `program` in one document: in code blocks, and between backticks."""
    for number, line, is_code in _lines(text):
        found = [line] if is_code else _SPAN.findall(line)
        for code in found:
            for words in _simple_commands(code):
                if words and words[0] == program:
                    yield Documented(f"{name}:{number}", tuple(words), whole=is_code)


def _lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Each line, and whether it is one of a shell's. Lines that end in a backslash are joined."""
    fence: str | None = None
    joined, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        opened = _FENCE.match(line)
        if opened is not None:
            fence = opened["language"] if fence is None else None
            continue
        is_code = fence in _SHELL_FENCES if fence is not None else line.startswith("    ")
        began = began or number
        joined = f"{joined} {line.strip()}".strip()
        if is_code and joined.endswith("\\"):
            joined = joined.removesuffix("\\").strip()
            continue
        yield began, joined.removeprefix("$ "), is_code
        joined, began = "", 0


def _simple_commands(code: str) -> Iterator[list[str]]:
    """The commands of a line, without what explains them, assignments before them, and redirections."""
    lexer = shlex.shlex(_PROSE.split(code.strip())[0], posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        tokens = list(lexer)
    except ValueError:  # prose with an apostrophe
        return
    words: list[str] = []
    for token in [*tokens, ";"]:
        if token in _BETWEEN:
            yield words
            words = []
        elif not (not words and (_ASSIGNMENT.match(token) or token == "sudo")):
            words.append(token)
