"""Run the command line as `python -m fiducial.cli`."""

from fiducial.cli import main

main()
