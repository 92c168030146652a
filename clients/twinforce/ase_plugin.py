"""The entry point by which ASE, from 3.27 on, lists the calculator among its plugins.

The interface is experimental in ASE. If it is not there, there are no plugins and no errors, since
ASE loads this module for all its users. It imports nothing of ASE besides the interface, which may
be loaded in the middle of an import of ASE.
"""

from typing import Any

__ase_plugins__: frozenset[Any] = frozenset()

try:
    from ase._4.plugins.plugin import CalculatorPlugin
except ImportError:
    pass
else:
    __ase_plugins__ = frozenset(
        {CalculatorPlugin("twinforce", implementation="twinforce.ase.TwinForceCalculator")}
    )
