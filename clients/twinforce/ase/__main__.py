"""ASE's command line with the calculator: python -m twinforce.ase run twinforce water.xyz.

ASE finds calculators outside of itself only if they are imported before. The address of the service
is a parameter, -p url=grpc://host:8001, or in the environment variable TWINFORCE_URL.
"""

from ase.cli.main import main

import twinforce.ase  # noqa: F401, registers the calculator

if __name__ == "__main__":
    main("python -m twinforce.ase")
