"""Write docs/cli.md, the reference of the command line, from the command line itself.

    python docs/cli_page.py

tests/test_docs.py proves that the page agrees with the program.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from fiducial.cli import app

PAGE = Path(__file__).with_name("cli.md")
TOP = """# Command line

Made by `docs/cli_page.py` from the program; `fiducial COMMAND --help` says the same.
"""


def commands(command: Any, name: str = "fiducial") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 (Typer's own command class)
    """Yield every command that does something, with the words that call it."""
    if not hasattr(command, "commands"):
        yield name, command
    for word, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{name} {word}")


def paragraphs(text: str) -> list[str]:
    """Return a help text's paragraphs; an example becomes a block that can be copied."""
    told = []
    for paragraph in text.strip().split("\n\n"):
        line = " ".join(paragraph.split())
        example = line.startswith("Example: ")
        told.append(f"```console\n$ {line.removeprefix('Example: ')}\n```" if example else line)
    return told


def option_row(option: Any) -> str:  # noqa: ANN401
    """Return a row of the table of options: how it is written, what it does, and what holds without it."""
    long = next(word for word in option.opts if word.startswith("--"))
    written = [long if option.is_flag else f"{long} {option.name.upper()}"]
    written += [word for word in (*option.opts, *option.secondary_opts) if word != long]
    held = option.default
    if option.secondary_opts:
        held = long if option.default else option.secondary_opts[0]
    shown = "must be given" if option.required else "" if held in (None, False, "") or not option.show_default else f"`{held}`"
    return f"| {', '.join(f'`{word}`' for word in written)} | {option.help} | {shown} |"


def section(name: str, command: Any) -> str:  # noqa: ANN401
    """Return the part of the page on one command."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    words = []
    for argument in arguments:
        word = argument.name.upper() + ("..." if argument.nargs < 0 else "")
        words.append(word if argument.required else f"[{word}]")
    parts = [f"## {name}", *paragraphs(command.help), f"Usage: `{' '.join([name, *words, '[OPTIONS]'])}`"]
    if arguments:
        rows = [f"| `{argument.name.upper()}` | {argument.help} |" for argument in arguments]
        parts.append("\n".join(["| argument | |", "|---|---|", *rows]))
    rows = [option_row(option) for option in options]
    parts.append("\n".join(["| option | | by default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def page() -> str:
    """Return the page."""
    root = typer.main.get_command(app)
    sections = [section(name, command) for name, command in commands(root)]
    return "\n\n".join([TOP.strip(), *sections]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
