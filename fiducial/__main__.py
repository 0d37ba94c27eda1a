"""Run the command line as `python -m fiducial`."""

from fiducial.cli import main

main()
