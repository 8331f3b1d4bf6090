"""A verdict on sharing: what each task gains or loses in a shared model, which tasks hurt one another, where to split.

Each task's single-task twin starts from the same weights as the shared model and trains with the same settings on the
same data; both are scored on the same examples, and a paired bootstrap says how sure the difference is. Which tasks
oppose one another is told by the cosines of their gradients during the shared training.

Source: Standley et al., Which Tasks Should Be Learned Together in Multi-task Learning?, 2020,
https://arxiv.org/abs/1905.07553; Fifty et al., Efficiently Identifying Task Groupings for Multi-Task Learning, 2021,
https://arxiv.org/abs/2109.04617; Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
"""

from mtl_core.sharing.bootstrap import Bootstrap, Gain, Predicted, paired_gains
from mtl_core.sharing.groups import suggest_groups
from mtl_core.sharing.study import SharingStudy, judge_sharing
from mtl_core.sharing.verdict import Affinity, Comparison, SharingVerdict, TaskVerdict

__all__ = [
    "Affinity",
    "Bootstrap",
    "Comparison",
    "Gain",
    "Predicted",
    "SharingStudy",
    "SharingVerdict",
    "TaskVerdict",
    "judge_sharing",
    "paired_gains",
    "suggest_groups",
]
