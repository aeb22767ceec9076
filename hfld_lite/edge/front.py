"""What a device's program computes besides the network: the view before it, the doubts after it."""

from typing import Any

from hfld_lite.data.views import (
    FLOOR,
    FRAMES,
    cut,
    fourier_points,
    level_of,
    mel_edges,
    mel_frames,
    neighbours,
)
from hfld_lite.evaluation.detector import Detector
from hfld_lite.evaluation.trust import BANDS, CLIPPED, NOVEL, Trust


def front(detector: Detector) -> dict[str, Any]:
    """What the program needs to compute the view, see :mod:`hfld_lite.data.views`.

    Samples → (mean subtracted if ``centred``) → magnitudes of ``points`` points, the first ``kept``
    of them, or mean powers of windows of ``size``, and means of ``frames`` windows in bands between
    ``edges`` → means of ``averaged`` neighbours → times ``unit``, log₁₀ down to ``depth`` below the
    peak; or min-max without depth.
    """
    recipe, rate = detector.recipe, detector.sample_rate
    samples = recipe.samples or detector.samples
    facts = dict.fromkeys(("size", "edges", "frames", "points", "kept", "depth", "unit"))
    facts |= {"centred": recipe.view != "time" and not cut(recipe), "averaged": 1}
    facts["level"] = level_of(recipe)
    if recipe.view == "log-mel":
        size, points = mel_frames(samples, rate)
        count = (samples - size) // (size // 2) + 1
        facts |= {"size": size, "points": points, "edges": mel_edges(rate).tolist()}
        facts |= {"frames": -(-count // FRAMES), "averaged": neighbours(points // 2, recipe.bins)}
        facts |= {"kept": points // 2, "depth": FLOOR / 10, "unit": (2 / size) ** 2}
    elif cut(recipe):
        facts |= {"points": samples, "kept": samples}
    elif recipe.view != "time":
        points = fourier_points(samples)
        facts |= {"points": points, "kept": points // 2}
        facts["averaged"] = neighbours(points // 2, recipe.bins)
        if recipe.view == "log-spectrum":
            facts |= {"depth": FLOOR / 20, "unit": 2 / samples}
    return facts


def doubts(trust: Trust | None, detector: Detector) -> dict[str, Any]:
    """What the program needs to say "unsure" and to warn; without limits it does neither."""
    normal, count = detector.normal_positions, len(detector.class_names)
    never = {"means": [[0.0] * BANDS], "deviations": [[1.0] * BANDS], "novelty": 1e9}
    never |= {"run": detector.samples + 1, "limit": 2.0, "rate": None}
    known = trust.to_dict() if trust else never
    return known | {
        "normal": normal,
        "doubtable": [not normal or label in normal for label in range(count)],
        "novel": NOVEL,
        "clipped": CLIPPED,
    }
