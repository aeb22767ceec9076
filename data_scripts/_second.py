"""The second study's tables, figures and page."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from _figures import trends
from _settings import GRIDS, LONG, SETTINGS, SHARES
from _study import write_table
from _summary import MATTERS, markdown, one_digit, said_interval

from hfld_lite.app.style import png
from hfld_lite.course.figures import forest
from hfld_lite.course.studies import DATA
from hfld_lite.evaluation.metrics import holm, mean_interval
from hfld_lite.storage.files import write_whole

LEAST_SEEDS = 3
"""Of a pair, for a difference to be given."""

SAFE, SAVED = -0.003, 0.1
"""What a weighting may lose where the teacher is sound, and must win where it is wrong: the goals
that it was built for."""


class Claim(NamedTuple):
    """A claim and the pair that decides it: setting and method that is better, and than which.

    The difference must be above ``margin``.
    """

    claim: str
    better: tuple[str, str]
    than: tuple[str, str]
    margin: float = 0.0


def _few(claim: str, better: tuple[str, str], than: tuple[str, str], *shares: int) -> list[Claim]:
    """The claim at several shares of labels; N in a setting is the share."""
    return [
        Claim(
            claim, *((setting.replace("N", str(n)), method) for setting, method in (better, than))
        )
        for n in shares
    ]


CLAIMS = [
    *_few(
        "a teacher with all labels helps a student with few",
        ("labels N", "kd"),
        ("labels N", "alone"),
        *SHARES,
    ),
    *_few(
        "HFLKD is ahead of KD where labels are few",
        ("labels N", "hierarchy"),
        ("labels N", "kd"),
        *SHARES,
    ),
    *_few("recordings without labels help", ("all N", "kd"), ("labels N", "kd"), *SHARES[1:]),
    *_few(
        "recordings without labels help",
        ("all N", "hierarchy"),
        ("labels N", "hierarchy"),
        *SHARES[1:],
    ),
    *_few(
        "distilling is ahead of pseudo-labels",
        ("all N", "kd"),
        ("all N", "pseudo-labels"),
        *SHARES[1:],
    ),
    *_few("HFLKD is ahead of KD on all recordings", ("all N", "hierarchy"), ("all N", "kd"), 5, 10),
    Claim("a teacher with as few labels helps", ("own 10", "kd"), ("labels 10", "alone")),
    Claim("a teacher with as few labels helps", ("own 10", "hierarchy"), ("labels 10", "alone")),
    *_few(
        "one-to-all beats one-to-one matching",
        ("labels N", "hierarchy"),
        ("labels N", "one-to-one"),
        10,
        100,
    ),
    *_few(
        "the secondary teacher helps",
        ("labels N", "hierarchy"),
        ("labels N", "direct"),
        10,
        100,
    ),
    Claim(
        "trusted loses no more than 0.3 points to fixed weights",
        ("labels 100", "weights trusted"),
        ("labels 100", "hierarchy"),
        SAFE,
    ),
    Claim(
        "trusted is 10 points ahead of fixed weights under a wrong teacher",
        ("wrong", "weights trusted"),
        ("wrong", "hierarchy"),
        SAVED,
    ),
    *(
        Claim(
            "trusted is ahead of fixed weights where labels are wrong",
            (f"noise {n}", "weights trusted"),
            (f"noise {n}", "hierarchy"),
        )
        for n in (20, 40)
    ),
    *(
        Claim("what is known to lift students does so", (f"lifts {n}", lift), (f"labels {n}", "kd"))
        for lift in ("normalised", "ensemble", "born again")
        for n in (10, 100)
    ),
    Claim(
        "what is known to lift students does so", ("lifts 100", "patient"), ("lifts 100", "kd long")
    ),
]
"""What the study was planned to decide."""

INTERVALS = (
    "Intervals: 95 % t intervals of the mean paired difference over seeds; on bearings all seeds "
    "have the same test recordings, so they speak of these alone."
)


def base_of(setting: str, method: str, base: str) -> tuple[str, str]:
    """Setting and method of the student that a method is compared with.

    It has the same labels: what stands in "labels N" stands for "all N", "own N" and "lifts N" too,
    and methods that take longer are compared with one that takes as long.
    """
    if method in LONG and base in ("alone", "kd"):
        return setting, f"{base} long"
    kind, _, share = setting.partition(" ")
    if kind in ("weak", "wrong") and base == "alone":
        return "labels 100", base
    if kind == "lifts" or (base == "alone" and kind in ("all", "own")):
        return f"labels {share}", base
    return setting, base


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation of every method in every setting, and its paired differences."""
    by_seed = _by_seed(rows)
    table = []
    for (data, setting, method), values in by_seed.items():
        row = {"data": data, "setting": setting, "method": method, "seeds": len(values)}
        row |= {"accuracy": values.mean(), "deviation": values.std()}
        for base in ("alone", "kd", "hierarchy"):
            other = (data, *base_of(setting, method, base))
            if other != (data, setting, method) and other in by_seed:
                found = paired(values, by_seed[other])
                row |= {f"against_{base}": found[0], f"low_{base}": found[1]}
                row |= {f"high_{base}": found[2], f"p_{base}": found[3]}
        table.append(row)
    return pd.DataFrame(table)


def _by_seed(rows: pd.DataFrame) -> dict[tuple[str, str, str], pd.Series]:
    keys = ["data", "setting", "method"]
    return {
        key: part.set_index("seed")["accuracy"].sort_index()
        for key, part in rows.groupby(keys, sort=False)
    }


def paired(
    ones: pd.Series, others: pd.Series, margin: float = 0.0
) -> tuple[float, float, float, float]:
    """Mean difference over the seeds of both, its interval, and p against a margin."""
    gains = (ones - others).dropna().to_numpy()
    if len(gains) < LEAST_SEEDS:
        return (np.nan,) * 4
    found = mean_interval(gains)
    return found.difference, found.low, found.high, mean_interval(gains - margin).p


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """The claims, held against every data set.

    *held*: the interval is above the margin and p by Holm's correction, within the data set, is
    below 0.05. *not held*: the interval ends below the margin, or with a margin of 0 below half a
    point. *not decided*: anything else.
    """
    by_seed, found = _by_seed(rows), []
    for data in rows["data"].unique():
        mine = []
        for claim, better, than, margin in CLAIMS:
            pair = [(data, *side) for side in (better, than)]
            if not all(side in by_seed for side in pair):
                continue
            ends = paired(*(by_seed[side] for side in pair), margin)
            if np.isnan(ends[0]):
                continue
            row = {"claim": claim, "data": data, "better": " / ".join(better)}
            row |= {"than": " / ".join(than), "margin": margin}
            row |= dict(zip(("difference", "low", "high", "p"), ends, strict=True))
            mine.append(row)
        for row, p in zip(mine, holm([row["p"] for row in mine]), strict=True):
            row["p_holm"] = p
            row["verdict"] = "not decided"
            if row["low"] > row["margin"] and p < 0.05:
                row["verdict"] = "held"
            elif row["high"] < (row["margin"] or MATTERS):
                row["verdict"] = "not held"
        found += mine
    return pd.DataFrame(found)


def write_all(
    out: Path, tuned: pd.DataFrame, rows: pd.DataFrame, plan: str, seeds: int, fewer: int
) -> None:
    """Write the tables, the figures and the page."""
    notes = (
        f'{plan} Seeds 0 to {seeds - 1}, in "lifts" and on bearings by load 0 to {fewer - 1}; the '
        "seeds of a method are in its row.",
        "command: python data_scripts/second_study.py data/bearings",
    )
    rows = rows.drop_duplicates(["data", "setting", "method", "seed"])
    table, judged = summarise(rows), verdicts(rows)
    write_table(
        out / "second_study.csv",
        table.round(5),
        "TEST accuracy of every method in every setting, mean and deviation over seeds, and "
        "paired differences from the student alone, from KD and from HFLKD with fixed weights, all "
        "with the same labels and as many steps, with p.",
        INTERVALS,
        *notes,
    )
    write_table(
        out / "second_verdicts.csv",
        judged.round(5),
        "The claims that the study was planned for, on TEST data. held: the interval is above the "
        "margin, and p by Holm's correction is below 0.05; not held: it ends below the margin, or "
        "below half a point where that is 0; not decided: anything else.",
        INTERVALS,
        *notes,
    )
    write_table(
        out / "second_tuning.csv",
        tuned.groupby(["data", "setting", "method", "number"], sort=False)["validation_accuracy"]
        .agg(["mean", "std"])
        .reset_index()
        .assign(
            candidate=lambda t: [str(GRIDS[m][n]) for m, n in zip(t.method, t.number, strict=True)]
        )
        .round(5),
        "VALIDATION accuracy of every candidate, on data that no test part holds.",
        *notes,
    )
    for name, figure in figures(table):
        write_whole(out / f"second_{name}.png", png(figure, dpi=90))
    _write_page(out, table, judged, notes)


SERIES = {
    ("labels", "alone"): "student alone",
    ("labels", "kd"): "KD, labelled only",
    ("labels", "hierarchy"): "HFLKD, labelled only",
    ("all", "pseudo-labels"): "pseudo-labels, all recordings",
    ("all", "kd"): "KD, all recordings",
    ("all", "hierarchy"): "HFLKD, all recordings",
}
DOUBT = {
    "labels 100": "sound teacher",
    "weak": "weak teacher",
    "wrong": "wrong teacher",
    "noise 20": "20 % wrong labels",
    "noise 40": "40 % wrong labels",
}
FIGURES = {
    "labels": "Test accuracy over the share of labelled recordings, a line for each method",
    "doubt": "Forest plot: accuracy less that of HFLKD with fixed weights, under sound, weak and "
    "wrong teachers and with wrong labels",
    "lifts": "Forest plot: accuracy less that of plain KD of what is known to lift students",
}


def figures(table: pd.DataFrame) -> Iterator[tuple[str, object]]:
    """Every figure that the rows allow, and its name."""
    for data in table["data"].unique():
        mine = table[table["data"] == data]
        kind, share = (
            mine["setting"].str.split(" ", expand=True).reindex(columns=[0, 1]).T.to_numpy()
        )
        named = [SERIES.get(pair) for pair in zip(kind, mine["method"], strict=True)]
        lines = mine.assign(method=named, x=pd.to_numeric(share, errors="coerce"))
        lines = lines[lines["method"].notna()]
        if lines["x"].nunique() > 2:
            teacher = mine[(mine["setting"] == "teacher sound") & (mine["method"] == "teacher")]
            known = [teacher.assign(x=x) for x in sorted(lines["x"].unique())]
            label = "recordings of the training part with a label, %"
            yield f"labels_{data.replace(' ', '_')}", trends(pd.concat([lines, *known]), label)
        doubted = {
            title: mine[(mine["setting"] == setting) & (mine["method"] != "hierarchy")]
            for setting, title in DOUBT.items()
        }
        methods = set(doubted["wrong teacher"]["method"])
        doubted = {t: p[p["method"].isin(methods)] for t, p in doubted.items() if len(p)}
        if methods:
            yield f"doubt_{data.replace(' ', '_')}", forest(doubted, "hierarchy")
    lifted = {
        f"{DATA[data]}, {setting.partition(' ')[2]} % of labels": part
        for (data, setting), part in table.groupby(["data", "setting"], sort=False)
        if setting.startswith("lifts") and "against_kd" in part and part["against_kd"].notna().any()
    }
    if lifted:
        yield "lifts", forest(lifted, "kd")


def _write_page(out: Path, table: pd.DataFrame, judged: pd.DataFrame, notes: tuple) -> None:
    text = ["# The second study in tables", INTERVALS, *notes]
    text += ["Made by the program; what it says is in README.md.", "## The claims, on test data"]
    if len(judged):
        shown = judged.assign(p_holm=judged["p_holm"].round(3))
        ends = judged[["difference", "low", "high"]].to_numpy()
        shown["difference, points"] = [said_interval(*row) for row in ends]
        columns = ["claim", "data", "better", "than", "difference, points", "p_holm", "verdict"]
        text += [markdown(shown[columns])]
    for path in sorted(out.glob("second_*.png")):
        alt = FIGURES[path.stem.split("_")[1]]
        text += [f"![{alt}]({path.name})"]
    for (data, setting), part in table.groupby(["data", "setting"], sort=False):
        shown = pd.DataFrame({"method": part["method"], "seeds": part["seeds"]})
        shown["accuracy, %"] = one_digit(100 * part["accuracy"])
        shown["deviation"] = one_digit(100 * part["deviation"])
        for base in ("alone", "kd", "hierarchy"):
            ends = [f"{name}_{base}" for name in ("against", "low", "high")]
            if ends[0] in part and part[ends[0]].notna().any():
                shown[f"against {base}"] = [said_interval(*row) for row in part[ends].to_numpy()]
        said = described(setting)
        text += [f"## {data}: {setting}", *([said] if said else []), markdown(shown)]
    write_whole(out / "second_study.md", "\n\n".join(text) + "\n")


def described(setting: str) -> str:
    """A setting in a sentence."""
    if setting.startswith("teacher"):
        return ""
    asked = SETTINGS[setting]
    said = f"{asked.labels:.0%} of the training part has a label"
    said += ", and the student is distilled on the rest as well" if asked.unlabelled else ""
    said += f", {asked.noise:.0%} of the labels are wrong" if asked.noise else ""
    return f"{said}; teacher: {asked.teacher}."
