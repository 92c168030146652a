"""The contract of potentials as an executable check, for model authors."""

from twinforce_models.contract.checks import Tolerances
from twinforce_models.contract.contract import (
    BrokenContractError,
    Check,
    ContractReport,
    check_potential,
)

__all__ = ["BrokenContractError", "Check", "ContractReport", "Tolerances", "check_potential"]
