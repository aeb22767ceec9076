"""Wrong answers to the exercises of notebook 09, and what each must bring."""

import numpy as np


def interval(by="tiles", paired=True, ends=(0.025, 0.975), sign=1, shift=0):
    """A bootstrap, with one mistake."""

    def found(first, second, tiles, rng):
        units = tiles if by == "tiles" else np.arange(len(tiles))
        right, wrong = (np.bincount(units, weights=x) for x in (first, second))
        draws = rng.integers(len(right), size=(1000, len(right)))
        other = draws if paired else rng.integers(len(right), size=draws.shape)
        means = (right[draws].sum(1) - wrong[other].sum(1)) / len(first)
        return np.quantile(sign * means + shift, ends)

    return found


def missed(limit_of, rule=lambda below, defective: below[defective].mean()):
    def rate(suspicion, defective, share):
        limit = limit_of(suspicion, defective, share)
        return rule(suspicion < limit, defective)

    return rate


def allowed(suspicion, defective, share, more=0):
    """The lowest limit at which at most this share of sound recordings raises an alarm."""
    sound = np.sort(suspicion[~defective])[::-1]
    count = int(share * len(sound) + 1e-9) + more
    return np.nextafter(sound[count], 1) if count < len(sound) else 0.0


def limit(swap=False, own=False, prices=True, turned=False, what="limit", pick=np.argmin):
    def found(suspicion, defective, limits, miss, alarm, share):
        called = suspicion >= limits[:, None]
        missed, alarmed = (~called)[:, defective].mean(1), called[:, ~defective].mean(1)
        share = defective.mean() if own else 1 - share if turned else share
        miss, alarm = (alarm, miss) if swap else (miss, alarm)
        miss, alarm = (miss, alarm) if prices else (1, 1)
        cost = share * missed * miss + (1 - share) * alarmed * alarm
        return {"limit": limits[pick(cost)], "cost": cost.min(), "place": pick(cost)}[what]

    return found


def shared(pairs=(("train", "validation"), ("train", "test"), ("validation", "test"))):
    def found(parts, tiles):
        each = [set(tiles[parts[a]]) & set(tiles[parts[b]]) for a, b in pairs]
        return set().union(*each)

    return found


def same_rows(parts, tiles):
    both = set(parts["train"]) & set(parts["test"])
    return {tiles[row] for row in both}


def twice(parts, tiles):
    names, counts = np.unique(tiles, return_counts=True)
    return set(names[counts > 1])


def holm(p, order=True, climb=True, cap=True, factors=None):
    places = np.argsort(p)
    steps = (np.arange(len(p), 0, -1) if factors is None else factors(len(p))) * p[places]
    steps = np.maximum.accumulate(steps) if climb else steps
    steps = np.minimum(1, steps) if cap else steps
    return steps[np.argsort(places)] if order else steps


def ece(weighted=True, amount=np.abs, after=None, empty=False):
    def found(confidence, right):
        member = np.ceil(confidence * 5).astype(int) - 1
        gaps, shares = [], []
        for b in range(5):
            inside = member == b
            if inside.any() or empty:
                gap = right[inside].mean() - confidence[inside].mean() if inside.any() else 0
                gaps.append(amount(gap))
                shares.append(inside.mean() if weighted else 1)
        value = np.average(gaps, weights=shares)
        return after(value) if after else value

    return found


# By exercise: the answer (a tuple where the check takes several), and words of the sentence.
WRONG = {
    "tile_bootstrap": [
        (interval(by="recordings"), "Recordings were drawn"),
        (interval(paired=False), "a draw of its own"),
        (interval(ends=(0.05, 0.95)), "middle 90 %"),
        (interval(ends=(0.25, 0.75)), "middle half"),
        (interval(sign=-1), "The sign is turned"),
        (interval(ends=(0.975, 0.025)), "lower end must come first"),
        (interval(shift=0.1), "lies elsewhere"),
        (lambda first, second, tiles, rng: (first.mean() - second.mean(),), "has shape"),
    ],
    "miss_rate": [
        (
            missed(allowed, lambda below, defective: 1 - below[defective].mean()),
            "the others are missed",
        ),
        (missed(lambda suspicion, defective, share: 0.5), "0.5"),
        (missed(lambda s, d, share: allowed(s, d, share - 0.1)), "No sound recording"),
        (missed(lambda s, d, share: allowed(s, d, share, 1)), "only one may"),
        (
            missed(allowed, lambda below, defective: (below & defective).mean()),
            "not of all",
        ),
        (missed(lambda s, d, share: np.quantile(s[d], share)), "of the defective recordings"),
        (missed(lambda s, d, share: np.quantile(s, 1 - share)), "of all recordings"),
        (missed(lambda s, d, share: allowed(s, d, 0.1)), "wrong at 0%"),
    ],
    "cheapest_limit": [
        (limit(own=True), "taken from this test set"),
        (limit(swap=True), "The prices are swapped"),
        (limit(prices=False, own=True), "The prices and the share"),
        (limit(turned=True), "The share is turned"),
        (limit(pick=np.argmax), "costs most"),
        (limit(what="cost"), "lowest cost"),
        (limit(what="place"), "place in the list"),
    ],
    "shared_tiles": [
        (same_rows, "Compare tiles[indices]"),
        (shared([("train", "test")]), "validation chooses"),
        (shared([("train", "validation"), ("train", "test")]), "every pair"),
        (twice, "no leak"),
        (lambda parts, tiles: bool(set(parts["train"])), "Return a set"),
    ],
    "corrected": [
        (lambda p: np.minimum(1, len(p) * p), "Bonferroni"),
        (lambda p: holm(p, order=False), "sorted order"),
        (lambda p: holm(p, climb=False), "running maximum"),
        (lambda p: holm(p, factors=lambda m: np.arange(1, m + 1)), "wrong way"),
        (lambda p: holm(p, cap=False), "above 1"),
        (lambda p: p, "Nothing is corrected"),
    ],
    "confidence_gap": [
        (ece(weighted=False), "counts alike"),
        (ece(weighted=False, empty=True), "empty ones"),
        (ece(amount=lambda gap: gap), "two signs cancel"),
        (ece(amount=lambda gap: gap, after=abs), "Gaps"),
        (ece(amount=np.square), "squared"),
        (lambda c, right: np.abs(right - c).mean(), "with its own confidence"),
    ],
}
