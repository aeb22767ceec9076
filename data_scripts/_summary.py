"""What the study's cells say: what validation chose, the tables, the figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _figures import chain, operating_curves, trends
from _methods import GRIDS, SECONDARY
from _study import write_table
from sklearn.metrics import confusion_matrix

from hfld_lite.app.figures import confusions
from hfld_lite.app.style import png
from hfld_lite.course.figures import forest, scatter
from hfld_lite.evaluation.metrics import holm, miss_rate_at, paired_interval, ratio_interval
from hfld_lite.networks import count_parameters, resnet1d
from hfld_lite.recipes import Recipe
from hfld_lite.storage.files import write_whole

INTERVALS = (
    "Intervals are at 95 %. Those of differences are t intervals over seeds, paired by seed (a "
    "percentile bootstrap over groups where there is one seed, or the same difference for all "
    "seeds); those of shares of a gap are Fieller's over seeds. The test blocks of the bearings "
    "are the same for all seeds: there the intervals say nothing about other blocks."
)

CLASSES = ("AN", "AD", "BN", "BD", "CN", "CD")
"""Of the simulated tiles, in the order of their labels."""

MAIN = ("tiles", "bearings block")
AGAIN = "tiles again"
"""The final run: other tiles, ten times as many to test on."""

TITLES = {
    "tiles": "simulated tiles",
    AGAIN: "other tiles, ten times the test",
    "bearings block": "known bearings, −6 dB",
}
RIVALS = ("kd", "fitnet", "attention", "dkd", "standardised", "matching", "assistant", "dense")
BASES = ("alone", "kd", "hierarchy")
FALSE_ALARMS = (0.01, 0.05, 0.1)
"""Shares of sound recordings that may raise an alarm, at which misses are counted."""

CLAIMS = (
    ("features are needed", "hierarchy", "without feature"),
    ("logits are needed", "hierarchy", "matching"),
    *(
        ("a PVPN finds good weights", f"weights {name}", "hierarchy")
        for name in ("published", "naive", "uncertainty", "meta")
    ),
    ("the hierarchy closes the capacity gap", "hierarchy", "without hierarchy"),
    ("one-to-all beats one-to-one matching", "hierarchy", "one-to-one"),
)
"""What the paper claims, and the two methods whose difference decides: the first is better."""

MATTERS = 0.005
"""Half a point: a claimed gain whose whole interval lies below it is not there."""


def choose_secondary(taught: pd.DataFrame) -> dict[str, int]:
    """The candidate of the secondary teacher with the best mean validation accuracy."""
    mine = taught[taught["method"].str.startswith(SECONDARY)]
    means = mine.groupby(["data", "method"])["validation_accuracy"].mean()
    return {data: int(part.idxmax()[1].rpartition(" ")[2]) for data, part in means.groupby("data")}


def choose(tuned: pd.DataFrame) -> dict[str, dict[str, dict]]:
    """The candidate of each method with the best mean validation accuracy, the first of equals.

    Under "best rival" stands the rival whose chosen candidate was the best.
    """
    chosen: dict[str, dict[str, dict]] = {}
    means = tuned.groupby(["data", "method", "number"], sort=False)["validation_accuracy"].mean()
    for data, part in means.groupby("data", sort=False):
        by_method = part.droplevel("data").unstack("number")
        chosen[data] = {
            method: GRIDS[method][int(row.to_numpy().argmax())]
            for method, row in by_method.iterrows()
        }
        best = by_method.max(axis=1)[list(RIVALS)]
        chosen[data]["best rival"] = {"method": str(best.idxmax())}
    return chosen


def compare(rows: pd.DataFrame, base: str, rng: np.random.Generator) -> dict[str, Any]:
    """Paired differences of each method from one, with Holm's correction for all of them."""
    found = {}
    at = rows[rows["method"] == base]
    for method, part in rows.groupby("method", sort=False):
        pairs = part.merge(at, on="seed", suffixes=("", "_base"))
        if method != base and len(pairs):
            runs = [(r.right, r.right_base, r.groups) for r in pairs.itertuples()]
            found[method] = paired_interval(runs, rng)
    adjusted = holm([paired.p for paired in found.values()])
    return {
        method: paired._asdict() | {"p_holm": p}
        for (method, paired), p in zip(found.items(), adjusted, strict=True)
    }


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation of every method on every data, and its differences from three of them."""
    rng, table = np.random.default_rng(0), []
    for data, part in rows.groupby("data", sort=False):
        against = {base: compare(part, base, rng) for base in BASES}
        for method, mine in part.groupby("method", sort=False):
            row = {"data": data, "method": method, "seeds": len(mine)}
            row |= {"accuracy": mine["accuracy"].mean(), "deviation": mine["accuracy"].std()}
            for base, found in against.items():
                for name, value in found.get(method, {}).items():
                    row[f"against_{base}" if name == "difference" else f"{name}_{base}"] = value
            for name in ("miss_rate", "false_alarm_rate", "macro_recall", "calibration_error"):
                row[name] = mine[name].astype(float).mean()
            for share in FALSE_ALARMS:
                row[f"misses_at_{share:.0%}".replace("%", "_percent")] = _misses(mine, share)
            row |= {name: mine[name].mean() for name in ("seconds", "cpu_seconds", "peak_mib")}
            table.append(row)
    return pd.DataFrame(table)


def _misses(mine: pd.DataFrame, false_alarms: float) -> float:
    """Mean over seeds of the miss rate at a share of false alarms; NaN where none is sound."""
    rates = [
        miss_rate_at(np.array(row.suspicion), np.array(row.defective), false_alarms)
        for row in mine.itertuples()
        if row.suspicion is not None
    ]
    return float(np.mean(rates)) if rates else float("nan")


def gap_closed(rows: pd.DataFrame, data: str) -> tuple[float, float, float]:
    """Share of the gap from the student alone to its teacher that the hierarchy closes.

    (hierarchy − alone) / (teacher − alone), of mean accuracies over the seeds that have all three.

    Returns:
        The share, and Fieller's 95 % interval over seeds, infinite where the gap may be zero; all
        NaN where the teacher's mean is not above the student's.
    """
    wide = rows[rows["data"] == data].pivot(index="seed", columns="method", values="accuracy")
    if not {"alone", "hierarchy", "teacher"} <= set(wide.columns):
        return (float("nan"),) * 3
    alone, hierarchy, teacher = wide[["alone", "hierarchy", "teacher"]].dropna().to_numpy().T
    if not len(alone) or teacher.mean() <= alone.mean():
        return (float("nan"),) * 3
    return ratio_interval(hierarchy - alone, teacher - alone)


def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Student alone, hierarchy and teacher on every data, and the share of the gap closed."""
    table = []
    for data, part in rows.groupby("data", sort=False):
        means = part.groupby("method")["accuracy"].mean()
        share, low, high = gap_closed(rows, data)
        names = ("alone", "hierarchy", "secondary_teacher", "teacher")
        table.append(
            {"data": data, **means.reindex(names), "share": share, "low": low, "high": high}
        )
    return pd.DataFrame(table)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """What the paper claims, held against the main data and the final run.

    A claim has *held* on a data set if the interval of its difference is clear above zero and
    Holm's p below 0.05, *not held* if the interval ends below half a point, so that any gain is
    smaller than that, and is *not decided* otherwise.
    """
    rows = []
    for data in TITLES:
        of = table[table["data"] == data].set_index("method")
        for claim, better, worse in CLAIMS:
            method, sign = (worse, -1) if better == "hierarchy" else (better, 1)
            if method not in of.index:
                continue
            ends = sign * of.loc[method, _ends("hierarchy")]
            difference, low, high = ends.iloc[0], *sorted(ends.iloc[1:])
            row = {"claim": claim, "data": data, "better": better, "than": worse}
            row |= {"difference": difference, "low": low, "high": high}
            row["p_holm"] = of.loc[method, "p_holm_hierarchy"]
            row["verdict"] = "not decided"
            if low > 0 and row["p_holm"] < 0.05:
                row["verdict"] = "held"
            elif high < MATTERS:
                row["verdict"] = "not held"
            rows.append(row)
    return pd.DataFrame(rows)


def write_tables(out: Path, tuned: pd.DataFrame, rows: pd.DataFrame, *notes: str) -> pd.DataFrame:
    """Write the four tables, and give the first."""
    table = summarise(rows)
    write_table(
        out / "study.csv",
        table.round(5),
        "TEST accuracy of every method on every data, mean and deviation over seeds, and paired "
        "differences from the student alone, from KD and from HFLKD with the hierarchy: their "
        "interval, two-sided p, and p by Holm's correction within the data. seconds: of training, "
        "by the clock, one core, beside other programs; cpu_seconds: spent by training and by "
        "asking its teacher; peak_mib: of the process.",
        INTERVALS,
        *notes,
    )
    write_table(
        out / "study_gap.csv",
        gaps(rows).round(4),
        "TEST accuracy, and the share of the gap from the student alone to the teacher that HFLKD "
        "with the hierarchy closes. -inf to inf: unbounded, since the teacher is not surely above "
        "the student alone; empty: its mean is not above the student's.",
        INTERVALS,
        *notes,
    )
    write_table(
        out / "study_verdicts.csv",
        verdicts(table).round(5),
        "What the paper claims, on TEST data: the difference that decides, its interval, p by "
        "Holm's correction. held: clear above zero, and p below 0.05; not held: the interval ends "
        "below half a point; not decided: anything else.",
        INTERVALS,
        *notes,
    )
    write_table(
        out / "study_tuning.csv",
        tuned.groupby(["data", "method", "number"], sort=False)["validation_accuracy"]
        .agg(["mean", "std"])
        .reset_index()
        .assign(
            candidate=lambda t: [str(GRIDS[m][n]) for m, n in zip(t.method, t.number, strict=True)]
        )
        .round(5),
        "VALIDATION accuracy of every candidate, on data that no test part holds.",
        *notes,
    )
    return table


FIGURES = {
    "chain": (
        "The chain",
        "Teacher, secondary teacher and student, drawn by size, with accuracies",
    ),
    "forest": (
        "All methods and ablations against the student alone",
        "Forest plot: accuracy of every method less that of the student alone, with intervals",
    ),
    "where": (
        "Where distillation helps",
        "Forest plot: accuracy of HFLKD, KD and the best rival less that of the student alone, "
        "with intervals, on all data of the study",
    ),
    "noise": ("Noise", "Test accuracy over the level of the noise, a line for each method"),
    "labels": ("Few labels", "Test accuracy over the share of labelled tiles"),
    "width": ("Width of the student, tiles", "Test accuracy on tiles over the student's width"),
    "width_bearings": (
        "Width of the student, bearings",
        "Test accuracy on bearings by block over the student's width",
    ),
    "unseen": ("A type that was never heard", "Test accuracy on type C over its labelled share"),
    "roc": ("Misses and false alarms", "Misses over false alarms as the limit moves"),
    "confusion": ("What is mistaken for what", "Confusion matrices of six classes of tiles"),
    "features": (
        "What the student makes of a sound, alone and distilled",
        "t-SNE of the features of the student trained alone and of the distilled one, seed 0",
    ),
}
"""Titles and alternative texts of the figures, in their order on the page."""


def write_page(out: Path, table: pd.DataFrame, rows: pd.DataFrame, *notes: str) -> None:
    """Write ``study.md``: the tables in points and percent, and the figures that were drawn."""
    text = [
        "# The study in tables",
        INTERVALS,
        *notes,
        "Made by the program; what it says is in README.md.",
    ]
    text += ["## The paper's claims, on test data"]
    judged = verdicts(table)
    if len(judged):
        judged["p_holm"] = judged["p_holm"].round(3)
        judged["difference, points"] = [said_interval(*r) for r in judged[_ENDS].to_numpy()]
        text += [markdown(judged[["claim", "data", "better", "than", *_POINTS, "verdict"]])]
    text += ["## HFLKD on all data, and how much of the gap to the teacher it closes"]
    closed = gaps(rows)
    for name in ("alone", "hierarchy", "secondary_teacher", "teacher"):
        closed[name] = one_digit(100 * closed[name])
    pairs = table.set_index(["data", "method"])
    for base in ("alone", "kd"):
        if (ends := _ends(base))[0] in table:
            mine = pairs[ends].xs("hierarchy", level="method").reindex(closed["data"])
            closed[f"hierarchy against {base}"] = [said_interval(*r) for r in mine.to_numpy()]
    closed["share (95 % interval)"] = [
        said_share(*ends) for ends in closed[["share", "low", "high"]].to_numpy()
    ]
    text += [markdown(closed.drop(columns=["share", "low", "high"]))]
    for data, part in table.groupby("data", sort=False):
        shown = pd.DataFrame({"method": part["method"], "seeds": part["seeds"]})
        shown["accuracy, %"] = one_digit(100 * part["accuracy"])
        shown["deviation"] = one_digit(100 * part["deviation"])
        for base in BASES:
            if (ends := _ends(base))[0] in part:
                shown[f"against {base}"] = [said_interval(*r) for r in part[ends].to_numpy()]
        for title, name in (
            ("misses, %", "miss_rate"),
            ("false alarms, %", "false_alarm_rate"),
            ("misses at 5 % false alarms", "misses_at_5_percent"),
            ("ECE, %", "calibration_error"),
        ):
            shown[title] = one_digit(100 * part[name])
        shown["CPU s"] = one_digit(part["cpu_seconds"])
        shown["MiB"] = one_digit(part["peak_mib"])
        text += [f"## {data}", markdown(shown)]
    for name, (title, alt) in FIGURES.items():
        if (out / f"study_{name}.png").exists():
            text += [f"## {title}", f"![{alt}](study_{name}.png)"]
    write_whole(out / "study.md", "\n\n".join(text) + "\n")


_ENDS, _POINTS = ["difference", "low", "high"], ["difference, points", "p_holm"]


def _ends(base: str) -> list[str]:
    """The table's columns of a paired difference and its interval."""
    return [f"{name}_{base}" for name in ("against", "low", "high")]


def one_digit(values: pd.Series) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.1f}" for value in values]


def said_interval(middle: float, low: float, high: float) -> str:
    if np.isnan(middle):
        return ""
    return f"{100 * middle:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def said_share(share: float, low: float, high: float) -> str:
    """A share of a gap and its interval in words."""
    if np.isnan(share):
        return "no gap"
    if not np.isfinite([low, high]).all():
        return f"{share:.2f} (unbounded: the gap may be zero)"
    return f"{share:.2f} ({low:.2f} to {high:.2f})"


def markdown(table: pd.DataFrame) -> str:
    lines = [[*table.columns], ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(out: Path, table: pd.DataFrame, rows: pd.DataFrame, recipe: Recipe) -> None:
    """Write the figures of all questions that have been answered; the recipe is the tiles'."""
    for name, figure in [*_chain(table, recipe), *_figures(table, rows)]:
        write_whole(out / f"study_{name}.png", png(figure, dpi=90))


def _chain(table: pd.DataFrame, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    reached = table[table["data"] == "tiles"].set_index("method")["accuracy"]
    methods = {"teacher": "teacher", SECONDARY: SECONDARY, "student": "hierarchy"}
    if {"alone", *methods.values()} <= set(reached.index):
        networks = [
            {
                "role": role,
                "parameters": count_parameters(resnet1d(n.depth, len(CLASSES), n.width, n.head)),
                "accuracy": reached[methods[role]],
            }
            for role, n in recipe.chain.items()
        ]
        yield "chain", chain(pd.DataFrame(networks), reached["alone"])


def _figures(table: pd.DataFrame, rows: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    shown = {title: table[table["data"] == data] for data, title in TITLES.items()}
    shown = {title: part for title, part in shown.items() if len(part)}
    if shown:
        yield "forest", forest(shown, "alone")
    everywhere = table.groupby("method")["data"].nunique() == table["data"].nunique()
    if table["data"].nunique() > 1:
        by_data = table.assign(method=table["data"])
        taught = [name for name in reversed(GRIDS) if name != "alone" and everywhere.get(name)]
        yield (
            "where",
            forest({name: by_data[table["method"] == name] for name in taught}, "alone"),
        )
    width = "width of the student, 1 / n"
    for name, label, pattern, full in (
        ("noise", "impact to noise, dB", r"tiles (-?\d+) dB", None),
        ("labels", "labelled tiles, %", r"tiles (\d+) % labels", ("tiles", 100.0)),
        ("width", width, r"tiles width 1/(\d+)", ("tiles", 16.0)),
        ("width_bearings", width, r"bearings width 1/(\d+)", ("bearings block", 16.0)),
        ("unseen", "share of type C that is labelled, %", r"tiles unseen (\d+)", None),
    ):
        part = _over(table, pattern, full)
        if len(part):
            yield name, trends(part, label)
    three = ["alone", "hierarchy", "teacher"]
    pair = rows[(rows["data"] == "tiles") & rows["method"].isin(three)]
    pair = pair[pair.groupby("seed")["method"].transform("nunique") == len(three)]
    if len(pair):
        pooled = {
            str(method): tuple(np.concatenate([*part[name]]) for name in ("suspicion", "defective"))
            for method, part in pair.groupby("method")
        }
        yield "roc", operating_curves(pooled, FALSE_ALARMS)
        matrices = {
            str(method): confusion_matrix(
                np.concatenate([*part["labels"]]), np.concatenate([*part["predicted"]])
            )
            for method, part in pair.groupby("method")
        }
        yield "confusion", confusions(matrices, CLASSES)
    placed = rows[(rows["data"] == "tiles") & rows["places"].notna()]
    if len(placed):
        points = {row.method: np.array(row.places) for row in placed.itertuples()}
        yield "features", scatter(points, np.array(CLASSES)[placed.iloc[0]["labels"]])


def _over(table: pd.DataFrame, pattern: str, full: tuple[str, float] | None) -> pd.DataFrame:
    """The rows of one question, with its number as ``x``.

    Args:
        table: of :func:`summarise`.
        pattern: of the question's data, with one group: the number.
        full: other data that stand for one more number.
    """
    found = table.assign(x=table["data"].str.extract(f"^{pattern}$")[0].astype(float))
    part = found[found["x"].notna()]
    if full is None or part.empty:
        return part
    data, number = full
    main = found[(found["data"] == data) & found["method"].isin(part["method"])]
    return pd.concat([part, main.assign(x=number)])
