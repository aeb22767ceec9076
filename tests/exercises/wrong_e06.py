"""Wrong answers to the exercises of notebook 06, and what each must bring."""

import torch
import torch.nn.functional as F


def direct(chain):
    return [(chain[0], "labels", "nobody"), *((role, chain[0], chain[0]) for role in chain[1:])]


def rows(chain, frozen=lambda learner, teacher: teacher):
    pairs = zip(chain[1:], chain, strict=False)
    return [(chain[0], "labels", "nobody"), *((a, b, frozen(a, b)) for a, b in pairs)]


def cached(read="rows", grad=False, evaluate=True, often=False):
    """A loop over cached answers, with one mistake."""

    def distil(teacher, inputs, orders, step):
        teacher.train(not evaluate)
        found = []
        with torch.set_grad_enabled(grad):
            answers = teacher(inputs)
        for order in orders:
            if often:
                with torch.no_grad():
                    answers = teacher(inputs)
            done = 0
            for batch in order:
                places = batch if read == "rows" else slice(done, done + len(batch))
                done += len(batch)
                found.append(step(inputs[places if read == "both" else batch], answers[places]))
        return found

    return distil


def every_step(teacher, inputs, orders, step):
    teacher.eval()
    with torch.no_grad():
        return [step(inputs[batch], teacher(inputs[batch])) for order in orders for batch in order]


def first_epoch_only(teacher, inputs, orders, step):
    teacher.eval()
    with torch.no_grad():
        answers = teacher(inputs)
    return [step(inputs[batch], answers[batch]) for batch in orders[0]]


def script(evaluate=True, inside=True, judged=True, validate=True, extra=None):
    """The training script of exercise 3, with some faults."""

    def distil(teacher, student, batches, validation, epochs):
        teacher.train(not evaluate)
        accuracies = []
        student.train(extra != "never")
        for _ in range(epochs):
            if inside:
                student.train()
            optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
            for inputs, target in batches:
                with torch.no_grad():
                    said = teacher(inputs)
                logits = student(inputs)
                loss = F.cross_entropy(logits, target) + F.mse_loss(logits, said)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if validate:
                if judged:
                    student.eval()
                with torch.no_grad():
                    right = student(validation[0]).argmax(1) == validation[1]
                accuracies.append(right.float().mean().item())
        return accuracies[-1:] if extra == "last" else accuracies

    return distil


# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "stage_order": [
        (direct, "direct distillation"),
        (lambda chain: rows(chain)[::-1], "The order is turned"),
        (lambda chain: rows(chain, lambda learner, teacher: learner), "The learner is frozen"),
        (lambda chain: rows(chain, lambda learner, teacher: "nobody"), "its teacher is frozen"),
        (lambda chain: rows(chain)[1:], "learns once"),
        (lambda chain: [(c, "labels", "nobody") for c in chain], "just above it"),
        (
            lambda chain: [(chain[0], chain[0], "nobody"), *rows(chain)[1:]],
            "The first network has no teacher",
        ),
        (lambda chain: "teacher, student", "list of rows"),
    ],
    "distil_cached": [
        (every_step, "24 times"),
        (cached("places"), "belong to other recordings"),
        (cached(grad=True), "carry a gradient"),
        (cached(evaluate=False), "in train mode"),
        (cached("both"), "the order"),
        (cached(often=True), "32 times"),
        (first_epoch_only, "it was called 2"),
    ],
    "distil_stage": [
        (script(evaluate=False, inside=False), "The teacher answers in train mode"),
        (script(inside=False), "left in eval mode"),
        (script(evaluate=False), "The teacher answers in train mode"),
        (script(judged=False), "validated in train mode"),
        (script(validate=False), "leave the loops"),
        (script(inside=False, extra="never"), "never learns in train mode"),
        (script(extra="last"), "one for each epoch"),
    ],
}
