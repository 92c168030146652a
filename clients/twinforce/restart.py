"""The restart files of dynamics, under their public name; needs the extra `ase`."""

from twinforce.ase.restart import Restart

__all__ = ["Restart"]
