"""Assess which forces, thermostats and time steps of a model are safe on a given system.

    report = assess(client, atoms, Path("assessment"), preset="quick", budget_minutes=30)

Needs the extra `cli`.
"""

from twinforce.assess.plan import PRESETS, SHARES
from twinforce.assess.progress import Progress
from twinforce.assess.report.page import page_of
from twinforce.assess.report.verdict import Thresholds, judge
from twinforce.assess.study import assess
from twinforce.assess.subject import Conditions

__all__ = [
    "PRESETS",
    "SHARES",
    "Conditions",
    "Progress",
    "Thresholds",
    "assess",
    "judge",
    "page_of",
]
