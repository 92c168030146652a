"""The bench for direct forces: what they, and multiple time stepping on them, are safe for.

    report = assess(client, atoms, Path("assessment"), preset="quick", budget_minutes=30)

It needs the cli extra.
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
