"""What the site does beside Markdown: formulas become MathML, and two files of the repository's front become pages.

Browsers draw MathML themselves, so that no page needs a script or the net for its formulas.
"""

import html
import re
from pathlib import Path

from math_core import LatexError, LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FRONT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
CONVERTER = LatexToMathML(fancy_error=False)
INLINE = re.compile(r'<span class="arithmatex">\\\((.+?)\\\)</span>', re.DOTALL)
DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.+?)\\\]\s*</div>', re.DOTALL)
FROM_NET = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
TAG = re.compile(r"\\tag\{([\w.]+)\}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the changelog and the notes for contributors, whose links start at the repository's root."""
    for name, page in FRONT.items():
        text = Path(config.config_file_path).with_name(name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to the repository's front, which lies above the pages, to its pages."""
    del page, config, files
    for name, target in FRONT.items():
        markdown = markdown.replace(f"](../{name})", f"]({target})")
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw the formulas of a page; one that is wrong stops the build."""
    del config, files
    try:
        return DISPLAY.sub(_display, INLINE.sub(lambda m: mathml(m[1], display=False), html))
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Stop the build where a page would load something from the net."""
    del config
    if found := FROM_NET.search(output):
        raise PluginError(f"{page.file.src_uri}: a page must load nothing from the net, got {found[0]}")
    return output


def _display(match: re.Match[str]) -> str:
    """Return a formula on its own line, with its number as a link to itself."""
    tag = TAG.search(match[1])
    drawn = mathml(TAG.sub("", match[1]), display=True)
    if tag is None:
        return f'<div class="equation">{drawn}</div>'
    return f'<div class="equation" id="eq-{tag[1]}">{drawn}<a href="#eq-{tag[1]}">({tag[1]})</a></div>'


def mathml(latex: str, *, display: bool) -> str:
    """Return a formula, as Markdown has escaped it, in MathML.

    Raises:
        ValueError: it cannot be drawn.
    """
    plain = html.unescape(latex).strip()
    try:
        return CONVERTER.convert_with_local_state(plain, displaystyle=display)
    except LatexError as error:
        raise ValueError(f"a formula cannot be drawn, {error}: {plain}") from error
