"""Dense guidance: a student that learns from all larger networks of the chain at once."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from hfld_lite.distillation import Objective, check_classes, cross_entropy
from hfld_lite.errors import ArgumentError
from hfld_lite.hierarchy import CONTROLS, Stage, Trainer
from hfld_lite.rivals.losses import densely_guided_kd_loss
from hfld_lite.teachers import Batch, LiveTeacher, TeacherTargets


class DenselyGuided(Objective):
    """Learn from labels and from the logits of all larger networks of the chain at once.

    Args:
        student: the network to train.
        targets: of each larger network, live ones on the student's device.
        temperature: T.
        weight: of the guidance.

    Raises:
        ArgumentError: if there is no target, or one has other classes than the student.
    """

    unlabelled = True

    def __init__(
        self,
        student: nn.Module,
        targets: Sequence[TeacherTargets | LiveTeacher],
        temperature: float = 5.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(student)
        if not targets:
            raise ArgumentError("Dense guidance needs one larger network at least.")
        for target in targets:
            check_classes(student, target)
        self.targets = self.answers_from = tuple(targets)
        self.temperature, self.weight = temperature, weight

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy + weight · guidance, and the terms ``dense`` and ``cross_entropy``."""
        logits = self.student(batch.inputs).logits
        teachers = [target.answers(batch).logits for target in self.targets]
        terms = {
            "dense": densely_guided_kd_loss(logits, teachers, self.temperature),
            "cross_entropy": cross_entropy(logits, batch.target),
        }
        return terms["cross_entropy"] + self.weight * terms["dense"], terms


def guide_densely(trainer: Trainer, role: str) -> Stage:
    """Train the student's network from labels and from the logits of all larger ones."""
    teachers = list(trainer.recipe.chain)[:-1]
    build = partial(DenselyGuided, temperature=trainer.recipe.temperature)
    return trainer.distil_by(role, teachers, build)


CONTROLS["dense"] = guide_densely
