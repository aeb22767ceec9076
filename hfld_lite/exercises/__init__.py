"""Instant checks for learners, a module for each notebook, and help in steps.

``check_NAME(answer)`` says that an answer is right, or names the likely mistake; ``hint("NAME",
step)`` helps. The exercises stand in ``notebooks/exercises/``.
"""

from hfld_lite.exercises.answers import NotAnswered, NotRight
from hfld_lite.exercises.e03_logit_separation import check_soften
from hfld_lite.exercises.hints import hint

__all__ = [
    "NotAnswered",
    "NotRight",
    "check_soften",
    "hint",
]
