"""Trained networks in use: from raw recordings to probabilities and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hfld_lite.data.examples import Examples
from hfld_lite.data.parts import Part, average
from hfld_lite.data.recordings import Recordings, labelled, measurable
from hfld_lite.data.splits import Split
from hfld_lite.data.views import frequencies, network_inputs
from hfld_lite.errors import ArgumentError, DataError, HfldError
from hfld_lite.evaluation.metrics import Evaluation, evaluate
from hfld_lite.evaluation.scores import Distance
from hfld_lite.evaluation.trust import Trust, make_trust
from hfld_lite.hierarchy import Chain
from hfld_lite.networks import ResNet1d, count_parameters, resnet1d
from hfld_lite.recipes import ALONE, Recipe, network_of
from hfld_lite.training import predict_logits

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Detector:
    """Trained networks with everything needed to use them on raw recordings.

    ``sample_rate`` (Hz) and ``samples`` say what recordings the networks were trained on, 0 for a
    dataset; ``given`` are the roles whose networks the recipe does not describe; ``part`` is the
    part of a file that a recording was, if that is known.
    """

    recipe: Recipe
    networks: dict[str, nn.Module]
    class_names: tuple[str, ...]
    normal_classes: tuple[str, ...]
    sample_rate: int
    samples: int
    given: frozenset[str] = frozenset()
    part: Part | None = None

    @classmethod
    def of(cls, chain: Chain) -> Detector:
        """The networks of a trained chain."""
        recordings = chain.examples.recordings
        return cls(
            chain.recipe,
            {name: stage.network for name, stage in chain.stages.items()},
            chain.examples.class_names,
            chain.examples.normal_classes,
            recordings.sample_rate if recordings else 0,
            recordings.samples if recordings else 0,
            chain.given,
            recordings.part if recordings else None,
        )

    @property
    def frequencies(self) -> np.ndarray | None:
        """What an input's values stand for, Hz; see :func:`hfld_lite.data.views.frequencies`."""
        return frequencies(self.recipe, self.samples, self.sample_rate)

    def inputs(self, signals: np.ndarray) -> Tensor:
        """What the networks read of raw signals ``(n, samples)``."""
        return network_inputs(signals, self.recipe, self.sample_rate)

    def predict(self, signals: np.ndarray, sample_rate: int, role: str = "student") -> np.ndarray:
        """Class probabilities ``(n, classes)`` of raw signals ``(n, samples)``.

        Raises:
            DataError: if the sample rate or the number of samples is not what the networks know.
            HfldError: if no network has that role.
        """
        self.check(np.shape(signals)[-1], sample_rate, "signals")
        logits = predict_logits(self.network(role), self.inputs(signals))
        return torch.softmax(logits, 1).cpu().numpy()

    def predictor(self, role: str) -> Callable[[np.ndarray], np.ndarray]:
        """:meth:`predict` for one role, of signals at the training's sample rate."""
        return lambda signals: self.predict(signals, self.sample_rate, role)

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer for each class: sound or defective, or its name if no class is normal."""
        if not self.normal_classes:
            return self.class_names
        known = {True: "sound", False: "defective"}
        return tuple(known[name in self.normal_classes] for name in self.class_names)

    @property
    def normal_positions(self) -> tuple[int, ...]:
        """Positions of the normal classes among all."""
        return tuple(self.class_names.index(name) for name in self.normal_classes)

    @property
    def answering(self) -> str:
        """The role that answers where none is named: a score's own network, or the student."""
        last = [*self.networks][-1]
        own = isinstance(self.networks[last], Distance) and last not in (*self.recipe.chain, ALONE)
        return last if own else "student"

    def network(self, role: str) -> nn.Module:
        """The network of a role."""
        if role not in self.networks:
            raise HfldError(f"There is no {role!r} here; choose from {', '.join(self.networks)}.")
        return self.networks[role]

    def described(self, role: str) -> bool:
        """Whether the recipe describes the network of a role, which may have been given."""
        network, owner = self.network(role), "student" if role.startswith("student_") else role
        if owner not in self.given and role not in self.given:
            return True
        if not isinstance(network, ResNet1d):
            return False
        spec = network_of(self.recipe, role)
        with torch.device("meta"):
            like = resnet1d(spec.depth, len(self.class_names), spec.width, spec.head, spec.dropout)
        shapes = [
            {name: value.shape for name, value in net.state_dict().items()}
            for net in (network, like)
        ]
        return shapes[0] == shapes[1]

    def describe(self, role: str) -> str:
        """A network in a few words, such as "ResNet18-1D, width 1/4, small head"."""
        network = self.network(role)
        scored = isinstance(network, Distance)
        if scored and role not in (*self.recipe.chain, ALONE):
            return network.title
        if not scored and not self.described(role):
            return type(getattr(network, "module", network)).__name__
        spec = network_of(self.recipe, role)
        width = f"1/{1 / spec.width:g}" if spec.width < 1 else f"{spec.width:g}"
        end = network.title if scored else f"{spec.head} head"
        return f"ResNet{spec.depth}-1D, width {width}, {end}"

    def only(self, role: str) -> Detector:
        """A detector with the network of this role only."""
        return replace(self, networks={role: self.network(role)})

    def check(self, samples: int, sample_rate: int, where: str) -> None:
        """Refuse recordings that would give wrong answers instead of an error."""
        if not self.sample_rate:
            raise DataError(
                where,
                "the networks were trained on a dataset, not on recordings",
                mend="call the network itself, detector.network(role), with the dataset's items",
            )
        if sample_rate != self.sample_rate:
            raise DataError(
                where,
                f"the sample rate is {sample_rate} Hz",
                expected=f"{self.sample_rate} Hz, as in training",
                mend="resample the recording",
            )
        if samples != self.samples:
            raise DataError(
                where,
                f"a recording has {samples} samples",
                expected=f"{self.samples}, as in training",
                mend="cut it as the training data was cut"
                + (f" ({self.part.options})" if self.part else ""),
            )

    def evaluate(self, recordings: Recordings, role: str = "student") -> Evaluation:
        """Figures of one network on recordings of the same classes; unlabelled ones are left out.

        Raises:
            DataError: if classes, sample rate or samples differ from training.
        """
        recordings = measurable(recordings)
        probabilities, rows = self._by_recording(recordings, role)
        return self._compare(probabilities.argmax(1), recordings, rows)

    def test(
        self, data: Recordings | Dataset | Examples, rows: np.ndarray | None = None
    ) -> TestResult:
        """Every network's figures and predictions on the same data, in one reading.

        Where the rows are windows of recordings, their probabilities are averaged by recording.
        Unlabelled recordings are left out, which a warning says.
        What the networks cost is added by :func:`hfld_lite.edge.analysis.with_costs`.
        """
        import pandas as pd

        known = isinstance(data, Recordings | Examples)
        recordings = data if known else Examples.of(data, self.recipe)
        recordings = measurable(recordings if rows is None else recordings.select(rows))
        evaluations, table = {}, []
        wholes = _wholes(recordings)
        first = average(recordings.labels, wholes)[1]
        predictions = pd.DataFrame(
            {
                "recording": (recordings.origins if wholes is None else wholes)[first],
                "group": recordings.groups[first],
                "class": np.array(self.class_names)[recordings.labels[first]],
            }
        )
        for role in self.networks:
            probabilities, _ = self._by_recording(recordings, role)
            predicted = probabilities.argmax(1)
            predictions[role] = np.array(self.class_names)[predicted]
            predictions[f"{role}_probability"] = probabilities.max(1)
            found = evaluations[role] = self._compare(predicted, recordings, first)
            table.append(
                {
                    "role": role,
                    "network": self.describe(role),
                    "parameters": count_parameters(self.networks[role]),
                    "accuracy": found.accuracy,
                    "low": found.low,
                    "high": found.high,
                    "miss_rate": found.miss_rate,
                    "false_alarm_rate": found.false_alarm_rate,
                    "macro_recall": found.macro_recall,
                    "recordings": found.count,
                }
            )
        return TestResult(pd.DataFrame(table), evaluations, predictions)

    def _by_recording(
        self, recordings: Recordings | Examples, role: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of each recording, and its first row."""
        return average(self._probabilities(recordings, role), _wholes(recordings))

    def _probabilities(self, recordings: Recordings | Examples, role: str) -> np.ndarray:
        if recordings.class_names != self.class_names:
            raise DataError(
                recordings.source or "recordings",
                f"the classes are {', '.join(recordings.class_names)}",
                expected=f"{', '.join(self.class_names)}, as in training",
            )
        if isinstance(recordings, Examples):
            logits = predict_logits(self.network(role), recordings.everything())
            return torch.softmax(logits, 1).cpu().numpy()
        other = recordings.part
        if self.part and other and not self.part.like(other):
            raise DataError(
                recordings.source or "recordings",
                f"the recordings are {other.words} of each file",
                expected=f"{self.part.words}, as in training",
                mend=f"read the files with {self.part.options}",
            )
        return self.predict(recordings.signals, recordings.sample_rate, role)

    def _compare(
        self, predicted: np.ndarray, recordings: Recordings | Examples, rows: np.ndarray
    ) -> Evaluation:
        return evaluate(
            predicted,
            recordings.labels[rows],
            recordings.groups[rows],
            self.class_names,
            self.normal_classes,
        )


@dataclass(frozen=True)
class TestResult:
    """What a test gave.

    ``table`` has a row for each role: role, network, parameters, accuracy with its 95 % interval
    (low, high), miss_rate and false_alarm_rate (None where no class is normal), macro_recall,
    recordings. ``evaluations`` holds the figures by role, with confusion matrices;
    ``predictions`` a row for each recording.
    """

    __test__ = False  # pytest would collect it for its name

    table: pd.DataFrame
    evaluations: dict[str, Evaluation]
    predictions: pd.DataFrame


def trust_of(
    detector: Detector,
    recordings: Recordings,
    parts: Split,
    predict: Callable[[np.ndarray], np.ndarray],
    rate: float | None = None,
) -> Trust:
    """The limits of *unsure* and of the warnings for a network, set on the validation part.

    See :mod:`hfld_lite.evaluation.trust`. Unlabelled recordings set no limit.

    Args:
        detector: whose classes these are.
        recordings, parts: of the training.
        predict: class probabilities ``(n, classes)`` of raw signals ``(n, samples)``.
        rate: promised share of misses; by default as `make_trust` says.

    Raises:
        ArgumentError: if there is no validation part, or it cannot promise the rate: it has too few
            recordings, or all that are harmful are of one group.
    """
    if not len(parts.validation):
        raise ArgumentError(
            "The run has no validation part to set a miss rate on; leave the rate out, or train "
            "with another recipe than published."
        )
    seen = recordings.select(parts.validation)
    return make_trust(
        _signals(recordings.select(labelled(recordings, parts.train))),
        _signals(seen),
        predict(seen.signals),
        detector.normal_positions,
        rate,
        seen.groups,
        seen.wholes,
    )


def _wholes(data: Recordings | Examples) -> np.ndarray | None:
    """The recording that each row is a window of, if they are windows."""
    known = data.recordings if isinstance(data, Examples) else data
    return None if known is None else known.wholes


def _signals(recordings: Recordings) -> tuple[np.ndarray, np.ndarray]:
    return recordings.signals, recordings.labels
