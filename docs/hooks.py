"""What turns docs/ into the site, beside mkdocs.yml: links to other files of the repository, and examples in docstrings.

Pages link to files as they are in the repository (`../results/hui2022/fig3`), so that the links work there too. In the
site, docs/ is the top folder, and each other file has its path in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "results/**/README.md")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)")
IMAGE = re.compile(r"(?<!\[)!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
LOADED = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?https?:|<link\b[^>]*\brel=\"?stylesheet\"?[^>]*https?:"
)


class ExamplesAsSection(Extension):
    """Reads `Example:` in a docstring as a section of code, as `Examples:` is."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rename the section in memory; the source remains as it is."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside of docs/, a page for each folder of results, and every file that a page links to."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            files.append(_file(path.relative_to(ROOT).as_posix(), config))
    for record in sorted(ROOT.glob("results/**/experiment.json")):
        folder = record.parent
        if not (folder / "README.md").exists():
            name = folder.relative_to(ROOT).as_posix()
            files.append(File.generated(config, f"{name}/README.md", content=_page_of_results(folder)))
    for page in [file for file in files if file.src_uri.endswith(".md")]:
        for link in LINK.findall(FENCE.sub("", page.content_string)):
            target = _in_repository(page.src_uri, link)
            is_new = not target.startswith("docs/") and files.get_file_from_path(target) is None
            if is_new and (ROOT / target).is_file():
                files.append(_file(target, config))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Write links as they are in the site, and make each figure a link to its file, which a phone can enlarge.

    Links to nothing remain as they are, and MkDocs warns.
    """
    here = posixpath.dirname(page.file.src_uri)

    def in_site(match: re.Match[str]) -> str:
        target = _in_repository(page.file.src_uri, match[1]).removeprefix("docs/")
        is_folder = files.get_file_from_path(f"{target}/README.md") is not None
        return posixpath.relpath(f"{target}/README.md" if is_folder else target, here or ".")

    return IMAGE.sub(r"[\g<0>](\1)", LINK.sub(in_site, markdown))


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that would load something from another site.

    Raises:
        PluginError: a script, style sheet, frame or image of another site.
    """
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri}: the page would load {found[0]}…; keep a copy in docs/assets")
    return output


def _page_of_results(folder: Path) -> str:
    """Figures, verdicts and files of one stored experiment."""
    name = folder.relative_to(ROOT / "results").as_posix()
    figures = "\n\n".join(f"![{path.stem}]({path.name})" for path in sorted(folder.glob("*.png")))
    listed = "\n".join(f"- [{path.name}]({path.name})" for path in sorted(folder.glob("*.*")))
    verdicts = (folder / "verdicts.txt").read_text(encoding="utf-8")
    return f"# {name}\n\n{figures}\n\n```text\n{verdicts}```\n\nFiles:\n\n{listed}\n"


def _file(path: str, config: Any) -> File:
    return File.generated(config, path, abs_src_path=str(ROOT / path))


def _in_repository(page: str, link: str) -> str:
    """Path in the repository that a link of a page means."""
    is_outside = page.startswith("results/") or page in PAGES
    return posixpath.normpath(posixpath.join(posixpath.dirname(page if is_outside else f"docs/{page}"), link))
