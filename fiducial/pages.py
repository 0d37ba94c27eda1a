"""Self-contained HTML pages: text, tables, figures, code; no script, no network, light and dark, on paper and on a phone.

Every function takes values and gives `Markup`: text that is HTML already. Plain strings are escaped wherever they enter, so a
file's name cannot become part of the page.
"""

import base64
import io
import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Number
from pathlib import Path
from typing import TypeGuard

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image as PillowImage

from fiducial.records import InputError
from fiducial.version import VERSION

FIGURE_PX = 1024  # longest side of an embedded picture
LONG_WORD = 24  # characters of a word that may break on paper
TONES = ("plain", "good", "bad", "refused")  # of a word that answers

_NUMBER = r"[-−+]?\d[\d,]*\.?\d*(e[-+]?\d+)?( ?%)?"

_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="fiducial {version}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{lead}</header>
<main>
{body}</main>
<footer>
<p>fiducial {version}. {foot}</p>
</footer>
</body>
</html>
""")

_STYLE = """
:root {
  --paper: #fcfbf8; --ink: #1c2024; --soft: #5a6168; --rule: #d8d4ca; --box: #f4f2ec; --mark: #0a5f63;
  --good: #1c6136; --bad: #9c2f1b; --refused: #7a5600;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --ink: #e3e2dc; --soft: #a1a8ae; --rule: #363c42; --box: #1c2125; --mark: #74c7c4;
    --good: #83cf9b; --bad: #f0937f; --refused: #e0b860;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 66rem; padding: 2.5rem 2rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif;
}
h1, h2, h3 {
  font-family: Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "Liberation Serif", serif; line-height: 1.2;
}
h1 { font-size: 2rem; font-weight: 600; margin: 0 0 .5rem; }
h2 { font-size: 1.45rem; font-weight: 600; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.15rem; font-weight: 600; margin: 2.25rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--rule); }
h1, h2, h3, p, figcaption, dd, li { overflow-wrap: anywhere; }
p { margin: 0 0 .75rem; max-width: 46rem; }
header p { color: var(--soft); }
a { color: var(--mark); text-underline-offset: .15em; }
.note { color: var(--soft); font-size: .875rem; }
.answer { font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .refused { color: var(--refused); }
nav ol { margin: 1.25rem 0 0; padding: 0; list-style: none; columns: 17rem; column-gap: 2rem; }
nav li { padding: .2rem 0; break-inside: avoid; }
nav ol ol { margin: .1rem 0 .4rem; padding-left: 1.1rem; columns: auto; font-size: .9rem; }
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.25rem; margin: 1rem 0;
}
.figures > .wide { grid-column: 1 / -1; }
.figures > .wide img { width: auto; max-height: 44rem; }
figure { margin: 1rem 0; min-width: 0; }
.figures figure { margin: 0; }
.figures img { width: 100%; max-height: 34rem; object-fit: contain; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid var(--rule); background: var(--box); }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .875rem; line-height: 1.4; }
.scroll { overflow-x: auto; width: fit-content; max-width: 100%; margin: .75rem 0 1rem; border-bottom: 1px solid var(--rule); }
.scroll:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35; font-variant-numeric: tabular-nums lining-nums; }
.caption { margin: 1.25rem 0 .4rem; color: var(--soft); font-size: .875rem; }
.caption + .scroll { margin-top: 0; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; border-bottom: 1px solid var(--ink); }
tbody tr + tr > td { border-top: 1px solid var(--rule); }
td { max-width: 24rem; overflow-wrap: break-word; }
td small { display: block; color: var(--soft); font-size: .75rem; }
.number { text-align: right; white-space: nowrap; }
th.number { white-space: normal; }
dl {
  display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .2rem 1.25rem; margin: .75rem 0;
  font-size: .9375rem;
}
dt { color: var(--soft); }
dd { margin: 0; font-variant-numeric: tabular-nums lining-nums; }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; font-size: .84rem; }
pre {
  margin: .4rem 0 1rem; padding: .7rem .9rem; overflow-x: auto; background: var(--box); border-left: 3px solid var(--mark);
  line-height: 1.5;
}
.label { margin: .9rem 0 0; color: var(--soft); font-size: .875rem; }
footer { margin-top: 3.5rem; padding-top: .75rem; border-top: 1px solid var(--rule); color: var(--soft); font-size: .875rem; }
@media (max-width: 34rem) {
  body { padding: 1.25rem 1rem 2rem; }
  h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
@media print {
  @page { margin: 16mm 14mm; }
  :root { --paper: #fff; }
  html { font-size: 9.5pt; }
  body { padding: 0; max-width: none; font-size: 1rem; }
  h2 { margin-top: 2rem; } h3 { margin-top: 1.5rem; }
  h2, h3, h2 + p, h3 + p, .label, .caption { break-after: avoid; }
  figure, pre, .scroll, tr, dl { break-inside: avoid; }
  thead { display: table-header-group; }
  .figures { grid-template-columns: repeat(auto-fit, minmax(75mm, 1fr)); }
  figure img, .figures img, .figures > .wide img { max-height: 85mm; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; max-width: 100%; } th, td { padding-right: 2.5mm; } td.long { overflow-wrap: anywhere; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  a { color: inherit; text-decoration: none; }
}
"""


def page(title: str, *sections: Markup, lead: str | Markup = "", foot: str = "") -> str:
    """Return a whole HTML page; `lead` stands under the title, `foot` beside the version at the end.

    What no UTF-8 can hold, as in the name of a file of another encoding, becomes a question mark.
    """
    body = Markup("\n").join(sections)
    text = _PAGE.format(title=title, lead=lead, body=body, foot=foot, version=VERSION, style=Markup(_STYLE))
    return text.encode("utf-8", "replace").decode()


def section(title: str | Markup, *parts: Markup, level: int = 2, anchor: str = "") -> Markup:
    """Return parts under a heading of level 2 or 3; `anchor` is what a link to it names."""
    heading = Markup("<h{0}>{1}</h{0}>").format(level, title)
    mark = Markup(' id="{}"').format(anchor) if anchor else ""
    return Markup("<section{}>\n{}\n{}</section>\n").format(mark, heading, Markup("").join(parts))


def paragraph(*parts: str | Markup) -> Markup:
    """Return a paragraph of text."""
    return Markup("<p>{}</p>\n").format(Markup("").join(parts))


def note(words: str) -> Markup:
    """Return a paragraph in small, soft letters."""
    return Markup('<p class="note">{}</p>\n').format(words)


def answer(word: str, tone: str = "plain") -> Markup:
    """Return a word that answers, in the color of its tone, one of `TONES`.

    Raises:
        ValueError: there is no such tone.
    """
    if tone not in TONES:
        raise ValueError(f"tone must be one of {TONES}, got {tone!r}")
    return Markup('<span class="answer {}">{}</span>').format(tone, word)


def link(anchor: str, words: str) -> Markup:
    """Return a link to a section of the same page."""
    return Markup('<a href="#{}">{}</a>').format(anchor, words)


def contents(entries: Iterable[Markup | tuple[Markup, Sequence[Markup]]]) -> Markup:
    """Return a list of links; an entry may have entries of its own."""
    items = []
    for entry in entries:
        head, below = (entry, ()) if isinstance(entry, Markup) else entry
        inner = Markup("").join(Markup("<li>{}</li>").format(item) for item in below)
        items.append(Markup("<li>{}{}</li>\n").format(head, Markup("<ol>{}</ol>").format(inner) if below else ""))
    return Markup('<nav aria-label="Contents"><ol>\n{}</ol></nav>\n').format(Markup("").join(items))


def code(words: str, label: str = "") -> Markup:
    """Return lines to be typed, in a box of their own."""
    head = Markup('<p class="label">{}</p>\n').format(label) if label else ""
    return Markup('{}<pre tabindex="0"><code>{}</code></pre>\n').format(head, words)


def key_values(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Return a list of names and what they are; values that are `Markup` stand as they are."""
    rows = (Markup("<dt>{}</dt><dd>{}</dd>\n").format(name, shown(value)) for name, value in pairs)
    return Markup("<dl>\n{}</dl>\n").format(Markup("").join(rows))


def table(frame: pd.DataFrame, caption: str = "", digits: int = 4) -> Markup:
    """Return a table without its index: numbers to the right, in about `digits` digits; a wide one scrolls in its own box."""
    right = [_is_numeric(frame.iloc[:, i]) for i in range(frame.shape[1])]
    head = _row("th", (_breakable(str(name)) for name in frame.columns), right)
    columns = [_shown_alike(list(frame.iloc[:, i]), digits) for i in range(frame.shape[1])]
    rows = (_row("td", cells, right) for cells in zip(*columns, strict=True))
    words = Markup('<p class="caption">{}</p>\n').format(caption) if caption else Markup("")
    box = Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">\n').format(caption or "Table")
    return Markup("{}{}<table>\n<thead>{}</thead>\n<tbody>\n{}</tbody>\n</table>\n</div>\n").format(
        words, box, head, Markup("").join(rows)
    )


def with_interval(value: str, interval: str) -> Markup:
    """Return a table's cell: a number, and below it how sure that is."""
    return Markup("{} <small>{}</small>").format(value, interval)


def shown(value: object, digits: int = 4) -> Markup:
    """Return a value as it is read: floats in so many digits, a dash for what is not defined, `Markup` as it is."""
    if isinstance(value, Markup):
        return value
    if value is None or value is pd.NA or value is pd.NaT or (_is_float(value) and math.isnan(value)):
        return Markup("–")
    if _is_float(value):
        return escape(f"{value:.0f}" if 10**digits <= abs(value) < 10**9 else f"{value:.{digits}g}")
    return escape(value)


def _is_float(value: object) -> TypeGuard[float]:
    return isinstance(value, float | np.floating)


def _shown_alike(values: list[object], digits: int) -> list[Markup]:
    """Return a column's values as they are read, its floats with equally many decimals where that keeps them short."""
    floats = [value for value in values if _is_float(value) and math.isfinite(value)]
    places = max((_decimals(value, digits) for value in floats), default=0)
    if places > digits:
        return [shown(value, digits) for value in values]
    return [
        escape(f"{value:.{places}f}") if _is_float(value) and math.isfinite(value) else shown(value, digits) for value in values
    ]


def _decimals(value: float, digits: int) -> int:
    """Return how many decimals a value has when it is read in so many digits."""
    number = Decimal(f"{value:.{digits}g}").normalize()
    return max(0, -int(number.as_tuple().exponent))


def _row(tag: str, cells: Iterable[Markup], right: Sequence[bool]) -> Markup:
    made, scope = [], Markup(' scope="col"') if tag == "th" else ""
    for cell, number in zip(cells, right, strict=True):
        long = any(len(word) > LONG_WORD for word in cell.striptags().split())
        kind = Markup(' class="number"') if number else Markup(' class="long"') if long else ""
        made.append(Markup("<{0}{1}{2}>{3}</{0}>").format(tag, scope, kind, cell))
    return Markup("<tr>{}</tr>\n").format(Markup("").join(made))


def _is_numeric(column: pd.Series) -> bool:
    """Tell whether every value that is there is a number, or words that read as one."""
    values = [value for value in column if value is not None and value is not pd.NA and value != ""]
    return bool(values) and all(
        (isinstance(value, Number) and not isinstance(value, bool)) or _reads_as_number(value) for value in values
    )


def _reads_as_number(value: object) -> bool:
    text = value.striptags() if isinstance(value, Markup) else value
    return isinstance(text, str) and re.fullmatch(rf"{_NUMBER}( \({_NUMBER}–{_NUMBER}\))?", text) is not None


def _breakable(name: str) -> Markup:
    """Let a column's name break after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def figure(
    picture: bytes | Path | PillowImage.Image,
    alt: str,
    caption: str | Markup = "",
    longest_px: int = FIGURE_PX,
    *,
    wide: bool = False,
) -> Markup:
    """Return a picture inside the page, no side longer than `longest_px`; a PNG or JPEG, whichever is smaller.

    Args:
        picture: a PNG or JPEG file, its bytes, or pixels.
        alt: what the picture shows, for who cannot see it; not empty.
        caption: stands under it.
        longest_px: larger pictures are reduced.
        wide: among `figures`, take a row of its own.

    Raises:
        ValueError: `alt` is empty.
        InputError: the file is unreadable or no PNG or JPEG.
    """
    if not alt.strip():
        raise ValueError("a figure needs words for who cannot see it, got an empty alt")
    pixels = _reduced(picture, longest_px)
    kind, data = _smaller(pixels)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    words = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    return Markup('<figure{}><img src="{}" width="{}" height="{}" alt="{}">{}</figure>\n').format(
        Markup(' class="wide"') if wide else "", source, *pixels.size, alt, words
    )


def figures(*parts: Markup) -> Markup:
    """Return figures side by side where there is room."""
    return Markup('<div class="figures">\n{}</div>\n').format(Markup("").join(parts))


def _reduced(picture: bytes | Path | PillowImage.Image, longest_px: int) -> PillowImage.Image:
    if isinstance(picture, PillowImage.Image):
        pixels = _opaque(picture)
    else:
        name = str(picture) if isinstance(picture, Path) else "the picture"
        try:
            file = io.BytesIO(picture if isinstance(picture, bytes) else picture.read_bytes())
            with PillowImage.open(file, formats=("PNG", "JPEG")) as opened:
                pixels = _opaque(opened)
        except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
            raise InputError(f"cannot show {name}: {error}") from error
    pixels.thumbnail((longest_px, longest_px), PillowImage.Resampling.LANCZOS, reducing_gap=3.0)
    return pixels


def _opaque(picture: PillowImage.Image) -> PillowImage.Image:
    """Return gray or RGB, on white where the picture lets something through."""
    if picture.has_transparency_data:
        colors = picture.convert("RGBA")
        white = PillowImage.new("RGBA", colors.size, "white")
        return PillowImage.alpha_composite(white, colors).convert("RGB")
    return picture.convert("L" if picture.mode in ("L", "1") else "RGB")


def _smaller(pixels: PillowImage.Image) -> tuple[str, bytes]:
    """Encode as PNG and as JPEG in full color resolution; drawings come out smaller as the one, photographs as the other."""
    png, jpeg = io.BytesIO(), io.BytesIO()
    pixels.save(png, format="PNG")  # optimize=True: 8 times as slow, 4 % smaller
    pixels.save(jpeg, format="JPEG", quality=85, subsampling=0, optimize=True)
    return min(("png", png.getvalue()), ("jpeg", jpeg.getvalue()), key=lambda pair: len(pair[1]))
