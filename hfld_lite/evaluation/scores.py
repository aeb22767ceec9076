"""How unlike good parts a recording is: scores that know no defect, behind one interface.

A score is a network that maps what a recipe's networks read, ``(n, length)``, to a vector z of each
recording. Its value is s = mean(z²), larger for what is less like the good parts it was fitted on.
*Distance* makes of it a network with two logits, (0, SHARPNESS · (s / limit − 1)), so that a
recording is called defective where s exceeds the limit, and everything that works with a network
works with it: exports, eight bits, C.

Most scores are Mahalanobis distances: z = W (f − μ) with W the inverse square root of the
covariance of f on good parts. It is estimated with the shrinkage of Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices", 2004, since there are often
fewer recordings than values. Where only some directions fit on a device, those of the smallest
variance are kept: what hardly varies among good parts shows a defect best (Rippel, Mertens and
Merhof, "Modeling the distribution of normal data in pre-trained deep features for anomaly
detection", 2021).
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hfld_lite.data.examples import Stored, batches
from hfld_lite.errors import ArgumentError, look_up
from hfld_lite.losses import one_to_all_matching
from hfld_lite.networks import POSITIONS, Output, ResNet1d, conv_bn
from hfld_lite.recipes import ALONE, Recipe, network_of

SHARPNESS = 4.0
"""The logit of a recording with twice the score of the limit; not the probability of a defect."""

BATCH = 256
"""Recordings that a score reads at once."""

DIRECTIONS = 22
"""Of a student's distance, so that student and distance take less than 20 kB in eight bits."""

BANDS = 128
"""Values of the spectrum that the plain distance and the autoencoder read: means of neighbours."""

HIDDEN, NARROWEST = 64, 12
"""Units of the autoencoder's layers."""

FEATURES, MATCHING, AUTOENCODER, SPECTRUM = "features", "matching", "autoencoder", "spectrum"


@dataclass(frozen=True)
class Taught:
    """What scores are fitted on.

    Attributes:
        networks: by role, in the order of the chain; controls behind them.
        projections: of each distilled network's features to its teacher's channels, by role.
        teachers: by role, the role that taught it.
        heads: h of one-to-all matching.
        inputs: what the networks read of the good training recordings, ``(n, length)``.
        seed: of the autoencoder.
    """

    networks: Mapping[str, nn.Module]
    projections: Mapping[str, nn.Module]
    teachers: Mapping[str, str]
    heads: int
    inputs: Tensor | Stored
    seed: int = 0


class Score(NamedTuple):
    """A score: how it is fitted, and its networks without numbers, both by role.

    A score without roles has one network, by its own name.
    """

    fit: Callable[[Taught], dict[str, nn.Module]]
    empty: Callable[[Recipe], dict[str, nn.Module]]
    words: str


SCORES: dict[str, Score] = {}


def score(name: str, words: str, empty: Callable[[Recipe], dict[str, nn.Module]]) -> Callable:
    """Register the decorated function as what fits a score.

    Args:
        name: of the score.
        words: what it is, for tables.
        empty: its networks of a recipe, of the same shapes; it is called on the device "meta".
    """

    def register(fit: Callable[[Taught], dict[str, nn.Module]]) -> Callable:
        SCORES[name] = Score(fit, empty, words)
        return fit

    return register


def _kept(role: str) -> int | None:
    """Directions of a role's distance; None for all."""
    return DIRECTIONS if role.startswith("student") else None


def _features(recipe: Recipe) -> dict[str, nn.Module]:
    found = {}
    for role in (*recipe.chain, ALONE):
        body = Features(_network(recipe, role))
        size = body.network.feature_channels * POSITIONS
        found[role] = nn.Sequential(body, nn.Linear(size, min(_kept(role) or size, size)))
    return found


def _network(recipe: Recipe, role: str) -> ResNet1d:
    spec = network_of(recipe, role)
    return ResNet1d(spec.depth, 2, spec.width, spec.head, spec.dropout)


def _matching(recipe: Recipe) -> dict[str, nn.Module]:
    networks = {role: _network(recipe, role) for role in recipe.chain}
    channels = {role: network.feature_channels for role, network in networks.items()}
    teachers = dict(zip(list(networks)[1:], networks, strict=False))
    projections = {
        role: conv_bn(channels[role], channels[teacher], 1) for role, teacher in teachers.items()
    }
    body = Matching(networks, projections, teachers, recipe.heads)
    size = POSITIONS * sum(channels[teacher] for teacher in teachers.values())
    return {MATCHING: nn.Sequential(body, nn.Linear(size, size))}


def _autoencoder(recipe: Recipe) -> dict[str, nn.Module]:
    sizes = (BANDS, HIDDEN, NARROWEST, HIDDEN, BANDS)
    layers = [[nn.Linear(*pair), nn.ReLU()] for pair in pairwise(sizes)]
    coder = nn.Sequential(*[each for pair in layers for each in pair][:-1])
    return {AUTOENCODER: Reconstruction(Bands(), nn.Linear(BANDS, BANDS), coder)}


def _spectrum(recipe: Recipe) -> dict[str, nn.Module]:
    return {SPECTRUM: nn.Sequential(Bands(), nn.Linear(BANDS, BANDS))}


@score(FEATURES, "distance of features", _features)
def features(taught: Taught) -> dict[str, nn.Module]:
    """Mahalanobis distance of the flattened features, for each network of the chain."""
    return {
        role: whitened(Features(network), taught.inputs, _kept(role))
        for role, network in taught.networks.items()
    }


@score(MATCHING, "failure of the chain to match its teachers", _matching)
def matching(taught: Taught) -> dict[str, nn.Module]:
    """How a student fails to match its teacher by one-to-all matching, through the hierarchy.

    For each pair of the chain the residual M V − F_t, see
    :func:`hfld_lite.losses.one_to_all_matching`; the distance is that of all residuals together.
    """
    body = Matching(taught.networks, taught.projections, taught.teachers, taught.heads)
    return {MATCHING: whitened(body, taught.inputs)}


@score(AUTOENCODER, "error of an autoencoder on the spectrum", _autoencoder)
def autoencoder(taught: Taught) -> dict[str, nn.Module]:
    """The error of an autoencoder on BANDS means of what the networks read: z = D(E(x)) − x."""
    from sklearn.neural_network import MLPRegressor  # slow to import

    bands = Bands()
    x = _rows(bands, taught.inputs)
    mean, deviation = x.mean(0), np.maximum(x.std(0), 1e-3 * x.std() + 1e-12)
    x = (x - mean) / deviation
    hidden = (HIDDEN, NARROWEST, HIDDEN)
    coder = MLPRegressor(
        hidden_layer_sizes=hidden, max_iter=300, tol=0, random_state=taught.seed % 2**32
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it always trains to its last iteration
        coder.fit(x, x)
    layers: list[nn.Module] = []
    for weight, bias in zip(coder.coefs_, coder.intercepts_, strict=True):
        layers += [_linear(weight.T, bias), nn.ReLU()]
    standard = _linear(np.diag(1 / deviation), -mean / deviation)
    return {AUTOENCODER: Reconstruction(bands, standard, nn.Sequential(*layers[:-1]))}


@score(SPECTRUM, "distance of the spectrum, without a network", _spectrum)
def spectrum(taught: Taught) -> dict[str, nn.Module]:
    """Mahalanobis distance of BANDS means of what the networks read: no network learns here."""
    return {SPECTRUM: whitened(Bands(), taught.inputs)}


class Features(nn.Module):
    """A network's features, flattened: ``(n, length)`` to ``(n, C · positions)``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = _without_head(network)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.network(x).features.flatten(1)


def _without_head(network: nn.Module) -> nn.Module:
    """The network itself, without the layers that told kinds and pitches apart."""
    if isinstance(network, ResNet1d):
        network.head = nn.Identity()
    return network


class Bands(nn.Module):
    """Means of neighbouring values, BANDS of them: ``(n, length)`` to ``(n, BANDS)``."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool1d(BANDS)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.pool(x.unsqueeze(1)).flatten(1)


class Matching(nn.Module):
    """The residuals of one-to-all matching of all pairs of the chain, flattened and joined."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        projections: Mapping[str, nn.Module],
        teachers: Mapping[str, str],
        heads: int,
    ) -> None:
        super().__init__()
        self.pairs = [(role, teachers[role]) for role in projections]
        used = dict.fromkeys(role for pair in self.pairs for role in pair)
        self.networks = nn.ModuleDict({role: _without_head(networks[role]) for role in used})
        self.projections = nn.ModuleDict(projections)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, length)`` to ``(n, Σ C_t · positions)``."""
        found = {role: network(x).features.flatten(2) for role, network in self.networks.items()}
        residuals = []
        for role, teacher in self.pairs:
            student = self.projections[role](found[role])
            _, weights = one_to_all_matching(
                student, found[teacher], self.heads, return_similarity=True
            )
            matched = student.unflatten(1, (self.heads, -1)) @ weights.transpose(2, 3)  # M V
            residuals.append((matched.flatten(1, 2) - found[teacher]).flatten(1))
        return torch.cat(residuals, 1)


class Reconstruction(nn.Module):
    """The error of an autoencoder on standardised bands."""

    def __init__(self, bands: nn.Module, standard: nn.Module, coder: nn.Module) -> None:
        super().__init__()
        self.bands, self.standard, self.coder = bands, standard, coder

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, length)`` to ``(n, BANDS)``."""
        x = self.standard(self.bands(x))
        return self.coder(x) - x


def whitened(
    body: nn.Module, inputs: Tensor | Stored, directions: int | None = None
) -> nn.Sequential:
    """A body f(x) followed by z = W (f − μ), fitted on good recordings.

    Args:
        body: maps ``(n, length)`` to ``(n, d)``.
        inputs: of good training recordings.
        directions: how many, those of the smallest variance; None for all.
    """
    from sklearn.covariance import LedoitWolf  # slow to import

    found = _rows(body, inputs).astype(np.float64)
    fitted = LedoitWolf().fit(found)
    variances, axes = np.linalg.eigh(fitted.covariance_)  # the smallest first
    keep = len(variances) if directions is None else min(directions, len(variances))
    variances = np.maximum(variances[:keep], 1e-12 * max(variances[-1], 1e-12))
    weight = axes[:, :keep].T / np.sqrt(variances)[:, None]
    return nn.Sequential(body, _linear(weight, -weight @ fitted.location_))


class Distance(nn.Module):
    """A score as a network with two logits, (0, SHARPNESS · (s / limit − 1)), s = mean(z²).

    Args:
        body: z(x), maps ``(n, length)`` to ``(n, d)``.
        size: d.
        limit: the score above which a recording is called defective.
        title: what it is, for tables.
    """

    def __init__(self, body: nn.Module, size: int, limit: float = 1.0, title: str = "") -> None:
        super().__init__()
        self.body, self.answer, self.title = body, nn.Linear(size, 2), title
        self.register_buffer("rate", torch.zeros(()))  # saved with the weights
        self.set_limit(limit)

    @torch.no_grad()
    def set_limit(self, limit: float, rate: float = 0.0) -> None:
        """Call recordings defective above this score; `rate` is the promised share of good ones."""
        self.rate.fill_(rate)
        self.answer.weight[0] = 0
        self.answer.bias[0] = 0
        self.answer.weight[1] = SHARPNESS / limit / self.answer.in_features
        self.answer.bias[1] = -SHARPNESS

    @property
    def limit(self) -> float:
        """The score above which a recording is called defective."""
        return SHARPNESS / float(self.answer.weight.detach()[1].sum())

    def forward(self, x: Tensor) -> Output:
        """Map ``(n, length)`` to z as features ``(n, d, 1)``, and the logits ``(n, 2)``."""
        z = self.body(x)
        return Output(z.unsqueeze(2), self.answer(z * z))


def empty_networks(name: str, recipe: Recipe) -> dict[str, Distance]:
    """A score's networks by role, with shapes and no numbers: they take no memory."""
    found = look_up(SCORES, name, "Score")
    with torch.device("meta"):
        return distances(found.empty(recipe), found.words)


def distances(bodies: Mapping[str, nn.Module], words: str) -> dict[str, Distance]:
    """Networks z(x) by role as networks with two logits, with a limit of 1, in eval mode."""
    return {
        role: Distance(body, _outputs(body), title=words).eval() for role, body in bodies.items()
    }


def _outputs(body: nn.Module) -> int:
    """Values that a score's network gives: those of its last linear layer."""
    return [each for each in body.modules() if isinstance(each, nn.Linear)][-1].out_features


def with_own_limit(
    network: Distance,
    predict: Callable[[np.ndarray], np.ndarray],
    signals: np.ndarray,
    groups: np.ndarray,
    wholes: np.ndarray | None = None,
) -> Distance:
    """A copy whose limit is set by what another form of it, such as eight bits, says.

    Args:
        network: with the promised share in `rate`.
        predict: of that form: probabilities ``(n, 2)`` of raw signals ``(n, samples)``.
        signals, groups, wholes: of the good recordings that set the limit.
    """
    p = np.clip(predict(signals)[:, 1].astype(float), 1e-9, 1 - 1e-7)
    if np.ptp(p) == 0:
        raise ArgumentError(
            f"In eight bits the network answers all {len(p)} good recordings that set the limit "
            "alike; export it in float32 (onnx, c-float32), or another network (--role)."
        )
    relative = np.maximum(1 + np.log(p / (1 - p)) / SHARPNESS, 1e-9)  # s / limit
    rate = float(network.rate)
    factor = limit_of(relative, groups, rate, wholes)
    found = copy.deepcopy(network)
    found.set_limit(network.limit * factor, rate)
    return found


def values(network: nn.Module, inputs: Tensor | Stored) -> np.ndarray:
    """The scores s = mean(z²) of inputs ``(n, length)``, float64 ``(n,)``."""
    return np.square(_rows(network, inputs).astype(np.float64)).mean(1)


@torch.no_grad()
def _rows(body: nn.Module, inputs: Tensor | Stored) -> np.ndarray:
    body.eval()
    each = batches(inputs, torch.arange(len(inputs)).split(BATCH))
    return np.concatenate([body(part).cpu().numpy() for _, part in each])


def _linear(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        made.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        made.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias)))
    return made


def conformal_limit(scores: np.ndarray, groups: np.ndarray, rate: float) -> float:
    """The limit that a good recording of a new group exceeds with a probability of at most `rate`.

    The smallest score q with Σ_g 1/(G + 1) · (share of the scores of group g up to q) ≥ 1 − rate,
    over G groups. It holds if the new group comes from where these come from (exchangeability),
    however alike the recordings of a group are. Source: Lee, Barber and Willett, "Distribution-free
    inference with hierarchical data", 2023; with one recording a group it is the usual split
    conformal limit.

    Args:
        scores: of good recordings that taught nothing, ``(n,)``.
        groups: ``(n,)``.
        rate: the promised share, from 1 / (G + 1) to below 1.

    Raises:
        ArgumentError: if so few groups cannot promise the rate, or all scores are equal.
    """
    scores, (names, codes, sizes) = (
        np.asarray(scores, float),
        np.unique(groups, return_inverse=True, return_counts=True),
    )
    least = 1 / (len(names) + 1)
    if rate < least - 1e-9 or not rate < 1:
        raise ArgumentError(
            f"The share of false alarms is {rate:g}; {len(names)} good groups can promise "
            f"{least:.3g} or more (below 1)."
        )
    if len(scores) > 1 and np.ptp(scores) == 0:
        raise ArgumentError(
            f"All {len(scores)} good recordings that set the limit have the same score, "
            f"{scores[0]:g}, so no limit tells anything; choose another score (--score), or look "
            "at the recordings."
        )
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(1 / (sizes[codes][order] * (len(names) + 1)))
    place = int(np.searchsorted(reached, 1 - rate - 1e-9))
    return float(scores[order][min(place, len(scores) - 1)])


def limit_of(
    scores: np.ndarray, groups: np.ndarray, rate: float, wholes: np.ndarray | None = None
) -> float:
    """The limit of :func:`conformal_limit`, also where rows are windows of recordings.

    A recording's answer is the average of its windows' probabilities σ(SHARPNESS (s / L − 1)); its
    score is then the L at which that average is a half.

    Args:
        scores, groups, rate: as there, of each row.
        wholes: the recording that each row is a window of; None where rows are recordings.
    """
    if wholes is None:
        return conformal_limit(scores, groups, rate)
    _, first, codes = np.unique(wholes, return_index=True, return_inverse=True)
    counts = np.bincount(codes)
    low, high = (np.log(each(scores)) for each in (np.min, np.max))
    low, high = np.full(len(first), low), np.full(len(first), high)
    for _ in range(60):
        middle = (low + high) / 2
        logits = SHARPNESS * (scores / np.exp(middle)[codes] - 1)
        means = np.bincount(codes, 1 / (1 + np.exp(-np.clip(logits, -60, 60)))) / counts
        low, high = np.where(means > 0.5, middle, low), np.where(means > 0.5, high, middle)
    return conformal_limit(np.exp((low + high) / 2), np.asarray(groups)[first], rate)


def promised(groups: np.ndarray, wanted: float | None, usual: float) -> float:
    """The share of false alarms that a limit set by these groups promises.

    Args:
        groups: of the good recordings that set the limit.
        wanted: the share that was asked for; None for `usual`, or the least possible.
        usual: the share where none is asked for.
    """
    least = 1 / (len(np.unique(groups)) + 1)
    return max(usual, math.ceil(1e6 * least) / 1e6) if wanted is None else wanted
