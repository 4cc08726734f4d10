"""A hook of mkdocs: the site has the repository's own paths, so that a link which works in a checkout works there, too.

README is the site's first page. A file outside docs/ which is no page, such as an example, comes along if a page
links to it. What the navigation calls api/NAME.md is the reference of the module NAME, made from its docstrings.
"""

import re
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)\s#:]+)[^)\s]*\)")


@event_priority(100)  # before mkdocstrings takes its paths
def on_config(config: MkDocsConfig) -> None:
    """Let the reference read the installed package, in which each folder stands under its own name."""
    room = find_spec("lambdaml.storage")
    assert room is not None and room.origin is not None
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(Path(room.origin).parents[2])]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Replace the files of docs/ by those of the repository that belong to the site."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    for path in sorted({str(page.relative_to(ROOT)) for page in pages}.union(*map(_targets, pages))):
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    for module in re.findall(r"api/([\w.]+)\.md", str(config.nav)):
        text = f"# {module}\n\n::: {module}\n"
        files.append(File.generated(config, f"api/{module}.md", content=text))


def _targets(page: Path) -> set[str]:
    """Return the files that a page links to, as paths in the repository."""
    folder = PurePosixPath(page.parent.relative_to(ROOT))
    paths = {normpath(folder / link) for link in LINK.findall(page.read_text())}
    return {path for path in paths if (ROOT / path).is_file()}
