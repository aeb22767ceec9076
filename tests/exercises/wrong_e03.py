"""Wrong answers to the exercises of notebook 03, and the sentence that each must bring."""

import torch

# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "soften": [
        (lambda z, t: torch.softmax(z / t, 0), "over the batch"),
        (lambda z, t: torch.softmax(z * t, 1), "must divide them"),
        (lambda z, t: torch.softmax(z, 1), "not used"),
        (lambda z, t: torch.log_softmax(z / t, 1), "logarithms"),
        (lambda z, t: (z / t)[0], "has shape"),
    ],
}
