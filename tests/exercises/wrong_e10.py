"""Wrong answers to the exercises of notebook 10, and what each must bring."""

import numpy as np

from hfld_lite.evaluation.scores import conformal_limit


def ranked(rank):
    def limit(scores, share):
        place = int(rank(len(scores), share))
        return np.sort(scores)[min(place, len(scores)) - 1]

    return limit


def limit_of(trains=None, sets=None, by_name=True):
    """The limit from rows that are chosen by (first half, second half, defective)."""

    def limit(values, groups, defective, share):
        good = np.unique(groups[~defective]) if by_name else np.flatnonzero(~defective)
        of = groups if by_name else np.arange(len(groups))
        first = np.isin(of, good[: len(good) // 2])
        parts = first, ~first & ~defective, defective
        train, setting = (np.any([parts[i] for i in chosen], axis=0) for chosen in (trains, sets))
        mean, deviation = values[train].mean(0), values[train].std(0)
        scores = np.square((values - mean) / deviation).mean(1)
        return conformal_limit(scores[setting], groups[setting], share)

    return limit


def worth(rule):
    """A rule of the shares of all parts: found, falsely alarmed; and what was given."""
    return lambda a, m, p: rule(p * (1 - m), (1 - p) * a, a, m, p)


# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "limit_for": [
        (lambda scores, share: np.quantile(scores, 1 - share), "a quantile"),
        (ranked(lambda n, share: np.floor((1 - share) * (n + 1))), "rounded down"),
        (ranked(lambda n, share: np.round((1 - share) * (n + 1))), "to the nearest"),
        (ranked(lambda n, share: np.ceil((1 - share) * n)), "not counted"),
        (ranked(lambda n, share: np.ceil((1 - share) * (n + 1)) + 1), "Python counts from 0"),
        (ranked(lambda n, share: np.ceil(share * (n + 1))), "wrong end"),
        (lambda scores, share: scores.max(), "always the largest"),
        (lambda scores, share: scores.mean(), "Sort the scores"),
    ],
    "least_promise": [
        (lambda groups: 1 / (len(groups) + 1), "Recordings are counted"),
        (lambda groups: 1 / len(np.unique(groups)), "one more"),
        (lambda groups: 1 / len(groups), "and the new part is not"),
        (lambda groups: 100 / (len(np.unique(groups)) + 1), "not percent"),
        (lambda groups: len(np.unique(groups)) + 1, "This is G + 1"),
        (lambda groups: 1 / (len(groups) / 4 + 1), "7, 1 and 2"),
    ],
    "honest_limit": [
        (limit_of((0, 1, 2), (0, 1, 2)), "Nothing has changed"),
        (limit_of((0, 1), (0, 1)), "The same good recordings"),
        (limit_of((0,), (0,)), "by the parts that trained"),
        (limit_of((0, 1), (1,)), "All good parts train"),
        (limit_of((0, 2), (1,)), "still train"),
        (limit_of((0,), (1, 2)), "Defective recordings set the limit"),
        (limit_of((0,), (1,), by_name=False), "cut between recordings"),
        (limit_of((1,), (0,)), "swapped"),
    ],
    "worth": [
        (worth(lambda hit, wrong, a, m, p: 1 - m), "that are found"),
        (worth(lambda hit, wrong, a, m, p: (1 - m) / (1 - m + a)), "left out"),
        (worth(lambda hit, wrong, a, m, p: wrong / (hit + wrong)), "that are good parts"),
        (worth(lambda hit, wrong, a, m, p: p * m / (p * m + wrong)), "raise no alarm"),
        (worth(lambda hit, wrong, a, m, p: (q := (1 - p) * (1 - m)) / (q + p * a)), "turned"),
        (worth(lambda hit, wrong, a, m, p: hit / (hit + a)), "not of all"),
        (worth(lambda hit, wrong, a, m, p: hit + wrong), "These are all alarms"),
        (worth(lambda hit, wrong, a, m, p: hit), "divide by all alarms"),
        (lambda a, m, p: 0.0075 / 0.057, "Without false alarms"),
    ],
}
