"""i-PI with a TwinForce service: a potential-energy surface that i-PI loads from a file.

`python -m twinforce.ipi` prints the path of that file, for `<pes_path>` of `<ffdirect>` or for
`i-pi-driver-py -m custom -P`. docs/ecosystem.md has complete inputs.
"""

from pathlib import Path

PES_PATH = Path(__file__).with_name("driver.py")

__all__ = ["PES_PATH"]
