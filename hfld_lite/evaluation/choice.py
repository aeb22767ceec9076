"""An automatic choice of view and learning rate that never reads the test part."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, Subset

from hfld_lite.data.examples import Examples
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split, split
from hfld_lite.data.views import level_of
from hfld_lite.errors import ArgumentError, DataError, RecipeError
from hfld_lite.hierarchy import Trainer
from hfld_lite.recipes import ALONE, Recipe
from hfld_lite.storage.progress import bar, tell
from hfld_lite.training import check_warmup, predict_logits

if TYPE_CHECKING:
    import pandas as pd

BUDGET = 3.0
"""Steps that a choice may take, in trainings of the whole chain."""

INNER = 5
"""The training part's groups are cut by this; a fifth of them chooses the epoch of a try."""

LEAST, FEW = 2, 10
"""Groups of a class in the validation part below which nothing is chosen, and groups in all below
which only the views that differ most are tried."""

VIEWS = (
    ("spectrum", "removed"),
    ("log-spectrum", "removed"),
    ("log-spectrum", "kept"),
    ("log-mel", "removed"),
    ("log-mel", "kept"),
)
"""The views that are tried, each with the level removed or kept, from the simplest."""

UNLIKE = ("spectrum", "log-mel")
"""Of these, the views that differ most."""

RATES = (1 / 3, 3.0)
"""Factors on the recipe's learning rate."""

LADDERS = ((1.0,), (0.25, 1.0), (0.125, 0.5))
"""Lengths of the tries of views, in trainings of the student; after the first of two lengths only
the best quarter is trained further. The first of these that the budget allows is taken, with tries
of rates where they can be paid for and the last length is the full one."""


class Choice(NamedTuple):
    """A recipe that validation chose.

    ``table`` has a row for each try: candidate, view, level, learning_rate, steps, score (balanced
    accuracy on the validation part), standard_error (by groups), seconds, chosen. ``said`` is a
    sentence.
    """

    recipe: Recipe
    table: pd.DataFrame
    said: str


def choose_recipe(
    data: Recordings | Dataset,
    recipe: Recipe,
    parts: Split | None = None,
    *,
    budget: float = BUDGET,
    progress: bool = True,
) -> Choice:
    """Try a handful of views, then of learning rates, and change the recipe if one is better.

    What is trained for a try is the student ALONE, so that the choice does not favour distillation
    over what it is compared with. It learns from the training part without a fifth of its groups,
    which chooses its epoch, and the validation part gives its score, so that neither is optimistic
    about the other. The test part is taken away before anything is tried. The recipe as it was
    stays unless another is better by more than one standard error of the gain (by groups).
    The budget is counted in steps, each in proportion to the length of what is read, never by the
    clock: the same seed gives the same choice. A handful of candidates does not need an optimiser
    such as Optuna: successive halving (here by four) has one loop.

    Args:
        data, recipe, parts: see :class:`hfld_lite.hierarchy.Trainer`; of a dataset only learning
            rates are tried, since it has no views.
        budget: steps that all tries may take, in trainings of the whole chain with the student
            alone. Where it does not allow that all views are tried at full length, they are tried
            at a quarter of it first, and only the best quarter is trained further; see LADDERS.
        progress: show a bar, and print the sentence.

    Raises:
        ArgumentError: if the budget is too small for any choice; the smallest is said.
        DataError: if a class has fewer than LEAST groups in validation or training part.
        RecipeError: if the recipe's behaviour is "published", which keeps no validation part.
    """
    import pandas as pd

    search = _Search(data, recipe, parts)
    best, said = search.run(budget, progress)
    table = pd.DataFrame(search.rows).assign(chosen=lambda t: t.index == best.row)
    kept = "the recipe stays as it was, since nothing is better by more than the noise"
    what = kept if best.recipe == recipe else _name(best.recipe)
    said = (
        f"Chosen on validation: {what} ({len(table)} tries of the student alone, "
        f"{table['steps'].sum():,} steps{said})."
    )
    if progress:
        print(said)
    return Choice(best.recipe, table, said)


def check_choice(
    data: Recordings | Dataset, recipe: Recipe, parts: Split | None = None, *, budget: float
) -> None:
    """Refuse what :func:`choose_recipe` would refuse, with the same errors, before any try."""
    _Search(data, recipe, parts).plan(budget)


def chosen_before(recipe: Recipe, table: pd.DataFrame) -> Recipe:
    """The recipe that a table of :func:`choose_recipe` says was chosen.

    Raises:
        RecipeError: if it does not say that of one row, or the values are impossible.
    """
    try:
        (row,) = table[table["chosen"].astype(str) == "True"].to_dict("records")
        seen = _reading(recipe, row["view"], row["level"])
        return seen.replace(learning_rate=float(row["learning_rate"]))
    except (KeyError, ValueError, TypeError) as error:
        raise RecipeError(
            f"The table of the automatic choice is damaged ({error}); start the run again."
        ) from error


class _Try(NamedTuple):
    """A trained candidate: which of the validation part it has right, and its row of the table."""

    recipe: Recipe
    correct: np.ndarray
    score: float
    row: int


class _Search:
    """The data of a choice without the test part, the tries so far, and what they were."""

    def __init__(self, data: Recordings | Dataset, recipe: Recipe, parts: Split | None) -> None:
        if recipe.behaviour == "published":
            raise RecipeError(
                "The recipe's behaviour is 'published', which trains on the validation part, so "
                "that nothing can be chosen on it; take another recipe or leave the automatic "
                "choice out."
            )
        whole = data if isinstance(data, Recordings) else Examples.of(data, recipe)
        if parts is None:
            shares = {"validation": recipe.validation, "test": recipe.test}
            parts = split(whole, **shares, seed=recipe.seed)
        rows = np.concatenate([parts.train, parts.validation])
        self.data = data.select(rows) if whole is data else Subset(data, rows.tolist())
        self.labels, self.groups = whole.labels[rows], whole.groups[rows]
        train, self.validation = np.split(np.arange(len(rows)), [len(parts.train)])
        fewest = {
            name: self._fewest(part, whole.class_names)
            for name, part in (("validation", self.validation), ("training", train))
        }
        for name, (count, of) in fewest.items():
            if count < LEAST:
                raise DataError(
                    f"{name} part",
                    f"the class {of!r} has {count} group{'s' * (count != 1)}",
                    expected=f"{LEAST} or more, to tell candidates apart",
                    mend="record more of this class, ask for a larger part, or leave the automatic "
                    "choice out",
                )
        examples = Examples.of(self.data, recipe)
        share = 1 / min(INNER, fewest["training"][0])
        rest, inner = examples.cut(train, share, recipe.seed)
        self.parts = Split(rest, inner, self.validation)
        # The epochs of the whole training part, so that a try has as many as the real training.
        self.recipe, self.count = recipe, round(len(train) * (1 - recipe.meta_share))
        self.lengths = {(recipe.view, level_of(recipe)): math.prod(examples.shape)}
        self.rows: list[dict[str, Any]] = []

    def _fewest(self, rows: np.ndarray, names: Sequence[str]) -> tuple[int, str]:
        """The smallest number of groups of a class among some rows, and the class."""
        labels, groups = self.labels[rows], self.groups[rows]
        return min((len(np.unique(groups[labels == i])), name) for i, name in enumerate(names))

    def run(self, budget: float, progress: bool) -> tuple[_Try, str]:
        """The best of all tries, and what has to be said of the search."""
        views, ladder, rates, said = self.plan(budget)
        total = sum(self._rungs(views, ladder)) + len(rates)
        with bar(total=total, desc="choosing", unit="try", progress=progress) as self.bar:
            best, field = None, views
            for number, part in enumerate(ladder):
                # The recipe as it was is tried at every length: others must beat it.
                best = self._try(self.recipe, part)
                tried = [self._try(candidate, part) for candidate in field]
                if number < len(ladder) - 1:
                    tried.sort(key=lambda one: -one.score)  # stable: the simpler of equals
                    field = [one.recipe for one in tried[: self._left(len(tried))]]
            best = self._better(best, tried)
            changed = [best.recipe.replace(learning_rate=self._rate(f)) for f in rates]
            best = self._better(best, [self._try(candidate, 1.0) for candidate in changed])
        return best, said

    def plan(self, budget: float) -> tuple[list[Recipe], tuple[float, ...], Sequence[float], str]:
        """Views, ladder and rates that the budget allows, and what has to be said of them."""
        groups, said = len(np.unique(self.groups[self.validation])), ""
        few = groups < FEW
        views = self._views(few) if isinstance(self.data, Recordings) else []
        if few and views:
            said = f"; the validation part has {groups} groups, so only unlike views were tried"
        return views, *self._plan(views, budget, () if few and views else RATES), said

    def _views(self, few: bool) -> list[Recipe]:
        """Recipes with the other views that the recordings can be read by."""
        found, first = [], self.data.select(np.arange(1))
        for view, level in VIEWS:
            if (view, level) in self.lengths or (few and view not in UNLIKE):
                continue
            candidate = _reading(self.recipe, view, level)
            try:
                self.lengths[view, level] = math.prod(Examples.of(first, candidate).shape)
            except ArgumentError:  # too short for this view
                continue
            found.append(candidate)
        return found

    def _rate(self, factor: float) -> float:
        return float(f"{self.recipe.learning_rate * factor:.3g}")

    @staticmethod
    def _left(count: int) -> int:
        """How many of the candidates go on to the next length."""
        return -(-count // 4)

    def _rungs(self, views: Sequence[Recipe], ladder: Sequence[float]) -> list[int]:
        """How many candidates are tried at each length, the recipe as it was among them."""
        counts, left = [], len(views)
        for _ in ladder:
            counts.append(left + 1)
            left = self._left(left)
        return counts

    def _plan(
        self, views: Sequence[Recipe], budget: float, rates: Sequence[float]
    ) -> tuple[tuple[float, ...], Sequence[float]]:
        """The first ladder that the budget allows, with tries of the rates or, if need be, without.

        A try of a longer input costs more steps in proportion. What halving leaves is not known
        before, so the longest inputs are taken.
        """
        own = self.lengths[self.recipe.view, level_of(self.recipe)]
        costs = sorted((self.lengths[v.view, level_of(v)] / own for v in views), reverse=True)
        epochs = {
            role: self.recipe.epochs(role, self.count) for role in (*self.recipe.chain, ALONE)
        }
        one, least = epochs[ALONE] / sum(epochs.values()), math.inf
        check_warmup(self.recipe, self._epochs(1.0) * self._each)
        plans = [(ladder, rates) for ladder in LADDERS[:-1]]
        plans += [(ladder, ()) for ladder in LADDERS[-2:]]
        for ladder, tried in plans if views else plans[:1]:
            rungs = zip(ladder, self._rungs(views, ladder), strict=True)
            cost = sum(part * (1 + sum(costs[: count - 1])) for part, count in rungs)
            cost = one * (cost + len(tried) * max([1.0, *costs]))
            if self._epochs(ladder[0]) * self._each <= (self.recipe.warmup or 0):
                continue  # a try would end before the rate is at its highest
            if cost <= budget:
                return ladder, tried
            least = min(least, cost)
        raise ArgumentError(
            f"The budget of the automatic choice is {budget:g} trainings of the chain; the least "
            f"that it takes is {math.ceil(100 * least) / 100:g}. Give it that, or leave it out."
        )

    @property
    def _each(self) -> int:
        """Steps of an epoch of a try."""
        count = len(self.parts.train)
        return max(1, count // self.recipe.batch(self.count))

    def _epochs(self, part: float) -> int:
        """Epochs of a try: as many steps as the student will have, or a part of them."""
        count = self.count
        steps = self.recipe.epochs(ALONE, count) * max(1, count // self.recipe.batch(count))
        return max(1, round(part * steps / self._each))

    def _try(self, recipe: Recipe, part: float) -> _Try:
        """Train the student alone for a part of its steps and score it on the validation part."""
        began, epochs = time.perf_counter(), self._epochs(part)
        short = recipe.replace(
            student=replace(recipe.student, epochs=epochs),
            batch_size=recipe.batch(self.count),
            drops=tuple(round(drop * part) for drop in recipe.drops),
            weighting="fixed",  # no terms but the labels' are weighed
            meta_share=0.0,
        )
        trainer = Trainer(self.data, short, self.parts, progress=False)
        stage = trainer.supervise(ALONE)
        inputs = trainer.examples.samples(self.validation).inputs
        predicted = predict_logits(stage.network, inputs).argmax(1).cpu().numpy()
        labels, groups = self.labels[self.validation], self.groups[self.validation]
        correct = (predicted == labels).astype(float)
        score, error = balanced_mean(correct, labels, groups)
        self.rows.append(
            {
                "candidate": _name(recipe),
                "view": recipe.view,
                "level": level_of(recipe),
                "learning_rate": recipe.learning_rate,
                "steps": len(stage.fit.history) * self._each,
                "score": score,
                "standard_error": error,
                "seconds": round(time.perf_counter() - began, 2),
            }
        )
        self.bar.update()
        tell(self.bar, f"{_name(recipe)} {score:.1%}")
        return _Try(recipe, correct, score, len(self.rows) - 1)

    def _better(self, known: _Try, tried: Sequence[_Try]) -> _Try:
        """The best of some tries if it beats the known one by more than the noise, else that.

        The noise is the standard error of the gain by groups if there were none to be had,
        √Σ_g d_g² with d_g a group's share of the gain: a single group's is never enough.
        """
        labels, groups = self.labels[self.validation], self.groups[self.validation]
        weights = 1 / np.bincount(labels)[labels] / len(np.unique(labels))
        _, member = np.unique(groups, return_inverse=True)
        for one in sorted(tried, key=lambda one: -one.score):  # stable: the simpler of equals
            gains = np.bincount(member, weights=weights * (one.correct - known.correct))
            if gains.sum() > np.sqrt(np.sum(gains**2)) + 1e-9:
                return one
        return known


def balanced_mean(
    values: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[float, float]:
    """Mean over classes of a value's mean in each class, and its standard error by groups.

    m = Σ_i w_i x_i with w_i = 1 / (K n_k(i)); by linearisation, with class means m_k,
    s² = G / (G − 1) Σ_g (Σ_{i in g} w_i (x_i − m_k(i)))² over G groups. For the correctness of
    answers, m is the balanced accuracy. Source: Cochran, "Sampling techniques", 1977.

    Args:
        values: ``(n,)``.
        labels: whole numbers ``(n,)``, the class of each.
        groups: ``(n,)``, two or more of them.
    """
    classes, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.bincount(of, weights=values) / counts
    _, member = np.unique(groups, return_inverse=True)
    residuals = (values - means[of]) / (len(classes) * counts[of])
    by_group = np.bincount(member, weights=residuals)
    spread = len(by_group) / (len(by_group) - 1) * np.sum(by_group**2)
    return float(means.mean()), float(np.sqrt(spread))


def _reading(recipe: Recipe, view: str, level: str) -> Recipe:
    """The recipe with another view and level; unchanged if it has them."""
    if (view, level) == (recipe.view, level_of(recipe)):
        return recipe
    # Where the recipe reads samples, bins are a number of samples.
    bins = None if recipe.view == "time" else recipe.bins
    by = "averaging" if view.startswith("log-") else recipe.bins_by
    return recipe.replace(view=view, level=level, bins=bins, bins_by=by)


def _name(recipe: Recipe) -> str:
    """A candidate in words."""
    level = f", level {level_of(recipe)}" if recipe.view.startswith("log-") else ""
    return f"{recipe.view}{level}, rate {recipe.learning_rate:g}"
