"""Run the command line with `python -m twinforce.cli`."""

from twinforce.cli import main

main()
