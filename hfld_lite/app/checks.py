"""What is checked before a run is begun: what cannot be trained leaves nothing on the disk."""

from hfld_lite.app.estimate import Estimate, estimate
from hfld_lite.app.facts import CLASSES
from hfld_lite.app.runs import unlabelled_counts
from hfld_lite.data.examples import without_meta
from hfld_lite.data.readers import need_two
from hfld_lite.data.recordings import Recordings, labelled
from hfld_lite.data.splits import Split, check_split, split
from hfld_lite.errors import DataError
from hfld_lite.evaluation.choice import check_choice
from hfld_lite.recipes import Recipe
from hfld_lite.storage.models import LONGEST_NAME
from hfld_lite.training import check_warmup


def check_training(
    recordings: Recordings,
    recipe: Recipe,
    parts: Split | None = None,
    *,
    seeds: int = 1,
    auto: float | None = None,
    **options: object,
) -> Estimate | None:
    """Refuse what a training would refuse, and tell how long it will take.

    Splits are drawn for all seeds, and each network is trained for a few steps.

    Args:
        recordings, recipe, parts: of the first run.
        seeds: how many runs there will be, each with the next seed.
        auto: budget of an automatic choice, if there is one.
        options: ``networks`` and ``trained``, see :class:`hfld_lite.hierarchy.Trainer`.

    Raises:
        HfldError: as :func:`hfld_lite.hierarchy.distill_chain` would raise it.
    """
    names = recordings.class_names
    need_two(names, recordings.source or "recordings")
    if len(names) > CLASSES or max(map(len, names)) > LONGEST_NAME:
        raise DataError(
            recordings.source or "recordings",
            f"there are {len(names)} classes, the longest name has {max(map(len, names))} letters",
            expected=f"{CLASSES} classes and {LONGEST_NAME} letters at most",
        )
    for seed in range(recipe.seed, recipe.seed + seeds):
        one = recipe.replace(seed=seed)
        _check_parts(recordings, one, parts)
        if auto is not None:
            check_choice(recordings, one, parts, budget=auto)
    return estimate(recordings, recipe, parts, **options)


def said_of_unlabelled(
    recordings: Recordings, recipe: Recipe, parts: Split | None = None
) -> list[str]:
    """What becomes of unlabelled recordings in a training, a sentence each; none without them.

    Args:
        recordings, recipe, parts: as :func:`check_training` gets them.
    """
    if len(labelled(recordings)) == len(recordings):
        usual = recipe.unlabelled == Recipe().unlabelled
        return [] if usual else ["No recording is unlabelled, so the share of these has no effect."]
    if parts is None:
        parts = split(recordings, validation=recipe.validation, test=recipe.test, seed=recipe.seed)
    count, known = len(parts.train), len(labelled(recordings, parts.train))
    left = round(count * (1 - recipe.meta_share))
    size = min(left, recipe.batch(left))
    free = min(size - 1, round(recipe.unlabelled * size))
    how = f"distilled networks learn from both ({free} of the {size} in a batch are unlabelled), "
    how += "the teacher and the student alone from the labelled ones"
    if not free or recipe.behaviour == "published":
        how = "all networks learn from the labelled ones only, as "
        published = recipe.behaviour == "published"
        how += "the released code knows no others" if published else "the share of the others is 0"
    many = "recordings" if recordings.wholes is None else "windows"
    said = [f"Training part: {count} {many}, {known} labelled, {count - known} unlabelled: {how}."]
    left_out, where = unlabelled_counts(recordings, parts)["unlabelled_left_out"], "validation or"
    if recipe.meta_share:
        kept = without_meta(recordings.select(parts.train), recipe.meta_share, recipe.seed)
        left_out, where = left_out + count - len(kept.train) - len(kept.test), "meta, validation or"
    if left_out:
        said.append(
            f"{left_out} unlabelled {many} are left out, since their group is in the {where} test "
            "part."
        )
    return said


def _check_parts(recordings: Recordings, recipe: Recipe, parts: Split | None) -> None:
    """Draw the parts, and from the training part what is kept for meta batches."""
    shares = {"validation": recipe.validation, "test": recipe.test}
    if parts is None:
        parts = split(recordings, **shares, seed=recipe.seed)
    count = len(check_split(parts, recordings).train)
    if recipe.meta_share:
        count = len(
            without_meta(recordings.select(parts.train), recipe.meta_share, recipe.seed).train
        )
    for role in recipe.chain:
        check_warmup(recipe, recipe.epochs(role, count) * max(1, count // recipe.batch(count)))
