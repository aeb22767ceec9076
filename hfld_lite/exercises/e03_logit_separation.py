"""Checks for notebook 03: temperatures, the loss of distillation and its two parts."""

import torch
from torch import Tensor

from hfld_lite.exercises.answers import ask, check, compare, tensor

LOGITS = torch.tensor([[8.0, 5.0, 3.0, -1.0], [0.5, 2.0, -1.0, 1.0], [-3.0, 0.0, 4.0, 2.0]])


@check
def check_soften(soften) -> str:
    """``soften(logits, temperature)``: softmax(z / T) over the classes, ``(batch, classes)``."""
    found = tensor(ask(soften, LOGITS, 4.0), (3, 4), "What soften returns")
    z: Tensor = LOGITS
    compare(
        found,
        torch.softmax(z / 4, 1),
        {
            "The softmax runs over the batch (dim 0): each column sums to 1. It must run over the "
            "classes, dim 1.": torch.softmax(z / 4, 0),
            "The temperature multiplies the logits; it must divide them: T = 4 has to make the "
            "answer softer, not surer.": torch.softmax(z * 4, 1),
            "The temperature is not used: this is the answer at T = 1.": torch.softmax(z, 1),
            "The temperature divides the probabilities instead of the logits: the rows no longer "
            "sum to 1.": torch.softmax(z, 1) / 4,
            "These are logarithms of probabilities; softmax, not log_softmax, is asked "
            "for.": torch.log_softmax(z / 4, 1),
        },
        "The probabilities differ from softmax(z / T) over the classes.",
    )
    return "Each row is a distribution, and a higher temperature makes it softer."
