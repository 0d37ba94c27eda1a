"""The command line, called as if it had been typed."""

import sys

import pytest
from typer.testing import CliRunner

from fiducial import cli


def run(*words: object) -> tuple[int, str, str]:
    """Return exit status, standard output and standard error; what is no exit but a bug is raised."""
    typed = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fiducial", *typed])
        result = CliRunner().invoke(cli.app, typed, catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr
