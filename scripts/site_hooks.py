"""What mkdocs needs to know of the repository: README and pages outside of ``docs/``.

Pages stay where they are, so that their links work in the repository. This adds README as a page,
adds the pages and files outside of ``docs/`` that pages of it link to, and turns their links.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

DOCS = "docs/"

README_PAGE = "first-ten-minutes.md"
"""Where README stands in the site, whose first page is ``docs/index.md``."""

LINK = re.compile(
    r"^```.*?^```|\[(?P<text>[^]]*)\]\((?P<link>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)|`[^`\n]*`",
    re.MULTILINE | re.DOTALL,
)
"""A link; or code, in which nothing is one."""

IMAGE = re.compile(r'(?<=<img src=")docs/')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README, and what pages link to outside of ``docs/``."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, README_PAGE, content=IMAGE.sub("", readme)))
    waiting = ["README.md", *(DOCS + file.src_uri for file in files.documentation_pages())]
    while waiting:
        place = waiting.pop()
        path = ROOT / place
        if not path.is_file():
            continue  # README's page
        for target in _targets(place, path.read_text(encoding="utf-8")):
            if not _is_outside(target) or files.get_file_from_path(target):
                continue
            files.append(
                File(
                    target,
                    str(ROOT),
                    config.site_dir,
                    config.use_directory_urls,
                    inclusion=InclusionLevel.NOT_IN_NAV,  # reached from the page that links to it
                )
            )
            if target.endswith(".md"):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links from a page's place in the repository into those of the site."""
    uri = page.file.src_uri
    is_of_docs = page.file.src_dir == config.docs_dir
    place = DOCS + uri if is_of_docs else uri
    if uri == README_PAGE:
        place = "README.md"

    def turned(found: re.Match[str]) -> str:
        target = _target(place, found["link"])
        if target is None:
            return found[0]
        if (ROOT / target).is_dir():
            return found["text"]  # a site has no page of a folder
        link = relpath(_uri(target), dirname(uri) or ".")
        return f"[{found['text']}]({link}{found['anchor'] or ''})"

    return LINK.sub(turned, markdown)


def _targets(place: str, markdown: str) -> list[str]:
    """Return the files of the repository that a page links to."""
    targets = [_target(place, found["link"]) for found in LINK.finditer(markdown)]
    return [target for target in targets if target]


def _target(place: str, link: str | None) -> str | None:
    """Return the path in the repository that a page at `place` links to; None for an address."""
    if not link or re.match(r"[a-z]+:", link):
        return None
    return normpath(f"{dirname(place)}/{link}" if dirname(place) else link)


def _is_outside(target: str) -> bool:
    return not target.startswith(DOCS) and target != "README.md" and (ROOT / target).is_file()


def _uri(target: str) -> str:
    if target == "README.md":
        return README_PAGE
    return target.removeprefix(DOCS)
