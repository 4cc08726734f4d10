"""What the documentation shows as code: its programs, which are run, and its commands.

A page is one session in one folder: its Python blocks run in the order in which they stand, and share their names. A
block whose docstring begins with a file's name, or which the page says to put into a file, is that file, too. What
a reader need not see stands in comments of HTML:

* `<!-- not run: needs a bucket -->` directly before a block says that it is not run, and why.
* `<!-- run -->` directly before a block of commands says that they are run. Others are only parsed.
* `<!-- run`, some lines and `-->` have these lines run: commands of lambdaml, or Python.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
    if page.name not in ("CHANGELOG.md", "cli.md")  # which tell of the past, and are made from the commands
}
BLOCK = re.compile(
    r"(?:^(?P<mark><!-- [^\n]* -->)\n\n?)?"
    r"(?:^```(?P<language>\w*)\n(?P<fenced>.*?)^```$|(?<=\n\n)(?P<indented>(?:^ {4}[^\n]*\n)(?:\n*^ {4}[^\n]*\n)*)"
    r"|^<!-- run\n(?P<hidden>.*?)^-->$)",
    re.MULTILINE | re.DOTALL,
)
FIRST = (
    "from lambdaml.cli._app import run as _run; import functools, lambdaml; "
    "lambdaml.train = functools.partial(lambdaml.train, engine='inline')  # no processes, each of which loads torch"
)
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
INTO = re.compile(r"Put this into `([\w/]+\.py)`[^`]*\Z")
FILE = re.compile(r'"""([\w/]+\.py):')


@dataclass(frozen=True)
class Block:
    """Some code of a page.

    Attributes:
        line: The number of its first line on the page, from 0.
        kind: The fence's language; `indented`; or `hidden`.
        mark: The comment directly before it.
        file: The file that it is, too.
    """

    line: int
    kind: str
    text: str
    mark: str
    file: str | None

    @property
    def not_run(self) -> str | None:
        """Why it is not run."""
        found = NOT_RUN.fullmatch(self.mark)
        return found[1] if found else None

    def commands(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the commands of lambdaml, each with the number of its line."""
        joined = re.sub(r"\\\n *", lambda found: "\0", self.text)
        line = self.line
        for text in joined.split("\n"):
            if self.kind in ("indented", "hidden", "sh") and re.match(r"(\$ )?lambdaml [a-z-]", text):
                yield line, shlex.split(re.split(r" [>|&]", text.replace("\0", " "))[0], comments=True)[1:]
            line += 1 + text.count("\0")


def blocks(text: str) -> list[Block]:
    """Return the code of a page, in order."""
    found = []
    for match in BLOCK.finditer(text):
        kind = next(name for name in ("fenced", "indented", "hidden") if match[name] is not None)
        code = re.sub(r"^ {4}", "", match[kind], flags=re.MULTILINE) if kind == "indented" else match[kind]
        named = kind == "fenced" and (FILE.match(code) or INTO.search(text[: match.start()]))
        line = text.count("\n", 0, match.start(kind))
        found.append(Block(line, match["language"] or kind, code, match["mark"] or "", named[1] if named else None))
    return found


def session(text: str) -> str:
    """Return a page as a program, in which each line of code has the number that it has on the page; or nothing."""
    lines = [""] * len(text.splitlines())
    for block in blocks(text):
        commands = dict(block.commands())
        if block.kind in ("hidden", "python") and not block.not_run:
            lines[block.line : block.line + block.text.count("\n")] = block.text.splitlines()
        if block.kind == "hidden" or block.mark == "<!-- run -->":
            for line, words in commands.items():
                lines[line] = f"assert _run({words}) == 0"
    if any(lines):
        lines[0] = FIRST
    return "\n".join(lines).rstrip()
