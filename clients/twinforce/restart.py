"""The restart files of `twinforce.ase.MultipleTimeStepping`; needs the extra `ase`."""

from twinforce.ase.restart import Restart

__all__ = ["Restart"]
