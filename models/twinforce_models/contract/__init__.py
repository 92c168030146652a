"""The contract of potentials as an executable check, for model authors."""

from twinforce_models.contract.contract import check_potential

__all__ = ["check_potential"]
