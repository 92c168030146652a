"""`python -m twinforce.cli`."""

from twinforce.cli import main

main()
