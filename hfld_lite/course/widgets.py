"""Interactive explorers for the notebooks: controls over a picture that follows them.

Each is thin: a plain function computes, another in `figures` draws, and the widget connects them.
The picture is an ``<img>`` with alternative text. It is in the cell's stored output as well, so
that a static page shows it as it was.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from html import escape
from textwrap import fill
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
import pandas as pd
import torch
from IPython.display import Audio
from ipywidgets import Dropdown, FloatLogSlider, FloatSlider, IntSlider
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from hfld_lite.app.style import png
from hfld_lite.course import figures
from hfld_lite.course.drawing import image
from hfld_lite.data.recordings import UNLABELLED, Recordings
from hfld_lite.data.simulator.simulate import SAMPLE_RATE, simulate_tiles
from hfld_lite.data.simulator.tiles import Bench
from hfld_lite.data.views import spectrum
from hfld_lite.edge.analysis import receptive_field, sizes
from hfld_lite.errors import ArgumentError
from hfld_lite.losses import one_to_all_matching, separated_logit_loss
from hfld_lite.networks import resnet1d
from hfld_lite.rivals.losses import kd_loss

if TYPE_CHECKING:
    from hfld_lite.edge.devices import Needs

_WIDE = {"description_width": "12em"}
_LAYOUT = {"width": "35em"}


_FOR_KEYS_AND_EARS = """
const help = tries => {
  const box = element.closest('.widget-vbox');
  if (!box?.querySelector('[role=slider], select')) {
    if (tries) setTimeout(help, 100, tries - 1);
    return;
  }
  for (const slider of box.querySelectorAll('.widget-slider')) {
    const label = slider.querySelector('.widget-label').textContent;
    const handle = slider.querySelector('[role=slider]');
    const readout = slider.querySelector('.widget-readout');
    const tell = () => handle.setAttribute('aria-valuetext', readout.textContent);
    handle.setAttribute('aria-label', label);
    readout.setAttribute('aria-label', label + ', typed');
    readout.setAttribute('role', 'textbox');
    new MutationObserver(tell).observe(readout, {childList: true, characterData: true});
    tell();
    const track = slider.querySelector('.slider') ?? handle.closest('.noUi-target');
    const allow = () => {
      const off = track.hasAttribute('disabled');
      handle.setAttribute('aria-disabled', off);
      readout.setAttribute('aria-disabled', off);
      handle.tabIndex = off ? -1 : 0;
    };
    new MutationObserver(allow).observe(track, {attributes: true, attributeFilter: ['disabled']});
    allow();
  }
  for (const select of box.querySelectorAll('select')) {
    select.setAttribute('data-lm-suppress-shortcuts', 'true');
  }
};
help(100);
"""
"""What ipywidgets lacks. Its sliders are not associated with their labels, and a logarithmic one is
announced as 0 for 10⁰; one that is disabled is neither announced as such nor left out by the Tab
key. JupyterLab handles the arrow keys on a list itself and leaves the cell."""


class Explorer(ipywidgets.VBox):
    """Controls, and the picture that `draw` makes of their values.

    Args:
        draw: takes the controls' values by name; returns a figure and its alternative text, which
            says what it shows at these values.
        controls: widgets with a ``value`` and a description.
        below: takes the same values; returns HTML to put below the picture, such as a player.
        buttons: stand between controls and picture.

    Attributes:
        alt: the words of the picture that is shown.
    """

    def __init__(
        self,
        draw: Callable[..., tuple[Figure, str]],
        controls: Mapping[str, ipywidgets.DOMWidget],
        below: Callable[..., str] | None = None,
        buttons: Sequence[ipywidgets.Button] = (),
    ) -> None:
        self.draw, self.controls, self.below = draw, dict(controls), below
        self.buttons = {button.description: button for button in buttons}
        self.picture = ipywidgets.HTML()
        self._layouts: dict = {}
        for control in self.controls.values():
            control.observe(self.follow, "value")
        row = [ipywidgets.HBox(list(buttons))] if buttons else []
        super().__init__([*self.controls.values(), *row, self.picture, _for_keys_and_ears()])
        self.follow()

    def follow(self, _: Any = None) -> None:
        """Draw the picture of the controls' values anew."""
        values = {name: control.value for name, control in self.controls.items()}
        figure, self.alt = self.draw(**values)
        more = self.below(**values) if self.below else ""
        self.picture.value = image(png(figure, dpi=90, known=self._layouts), self.alt) + more

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and the picture for pages that have no kernel."""
        return super()._repr_mimebundle_(**kwargs) | {"text/html": self.picture.value}


def _for_keys_and_ears() -> ipywidgets.Output:
    data = {"application/javascript": _FOR_KEYS_AND_EARS, "text/plain": ""}
    told = {"output_type": "display_data", "data": data, "metadata": {}}
    return ipywidgets.Output(outputs=(told,), layout={"display": "none"})


def slider(name: str, low: float, high: float, value: float, step: float) -> FloatSlider:
    """A labelled slider for a number."""
    return FloatSlider(
        value, min=low, max=high, step=step, description=name, style=_WIDE, layout=_LAYOUT
    )


def choice(name: str, options: Sequence[str]) -> Dropdown:
    """A labelled list to choose from."""
    return Dropdown(options=list(options), description=name, style=_WIDE, layout=_LAYOUT)


def player(signal: np.ndarray, sample_rate: int) -> str:
    """A sound as an HTML element that plays it; the loudest sample at full scale."""
    source = Audio(signal, rate=sample_rate).src_attr()
    # Not in a <source>: JupyterLab would drop its address from a notebook that has not run yet.
    return f'<audio controls aria-label="the sound of this tile" src="{source}"></audio>'


@lru_cache(maxsize=8)  # the picture and the player request the same tile
def one_tile(kind: str, defective: bool, severity: float, snr: float, seed: int) -> np.ndarray:
    """The sound of one simulated tile, ``(7000,)`` samples at 40 kHz.

    Args:
        kind: type of tile, "A", "B" or "C".
        defective: with a defect, or sound.
        severity: of the defect.
        snr: impact to noise, dB.
        seed: of the tile and everything else; with another severity it is the same tile.
    """
    bench = Bench(severity_low=severity, severity_high=severity, snr=snr, snr_deviation=0.0)
    # Such small products are faster in one thread, much faster if another program is running.
    with threadpool_limits(1, "blas"):
        pair = simulate_tiles(kind, tiles_per_class=1, drops=1, seed=seed, bench=bench)
    return pair.signals[pair.class_names.index(f"{kind}{'D' if defective else 'N'}")]


def explore_tiles(seed: int = 0, bins: int = 875) -> Explorer:
    """Type, class, severity, noise → the sound of a simulated tile, its wave, its spectrum."""

    def draw(kind: str, state: str, severity: float, snr: float, tile: int) -> tuple[Figure, str]:
        signal = one_tile(kind, state == "defective", severity, snr, seed + tile)
        seen = spectrum(signal[None], bins)[0].numpy()
        width = SAMPLE_RATE / len(signal)
        alt = (
            f"A {state} tile of type {kind} at {snr:g} dB"
            + (f", severity {severity:.2f}" if state == "defective" else "")
            + f": wave and spectrum, strongest at {seen.argmax() * width / 1000:.2f} kHz"
        )
        return figures.impact(signal, SAMPLE_RATE, seen, width), alt

    def below(kind: str, state: str, severity: float, snr: float, tile: int) -> str:
        return player(one_tile(kind, state == "defective", severity, snr, seed + tile), SAMPLE_RATE)

    controls = {
        "kind": choice("type", ("A", "B", "C")),
        "state": choice("class", ("sound", "defective")),
        "severity": slider("severity of the defect", 0.02, 0.4, 0.15, 0.01),
        "snr": slider("impact to noise, dB", -10, 30, 18, 1),
        "tile": IntSlider(0, min=0, max=20, description="tile", style=_WIDE, layout=_LAYOUT),
    }

    def allow(_: Any = None) -> None:
        controls["severity"].disabled = controls["state"].value == "sound"  # there is no defect

    controls["state"].observe(allow, "value")
    allow()
    return Explorer(draw, controls, below)


def logit_terms(
    teacher: Sequence[float], student: Sequence[float], target: int, temperature: float
) -> dict[str, float]:
    """TCKD, NCKD and KD of one sample, and NCKD as it stands in KD: (1 − p_y) · NCKD."""
    t, s = (torch.tensor(np.array([z], float)) for z in (teacher, student))
    tckd, nckd = separated_logit_loss(s, t, torch.tensor([target]), temperature)
    rest = 1 - torch.softmax(t / temperature, 1)[0, target]
    return {
        "TCKD": float(tckd),
        "NCKD": float(nckd),
        "(1 − p_y) NCKD": float(rest * nckd),
        "KD": float(kd_loss(s, t, temperature)),
    }


def explore_logits(
    teacher: Sequence[float],
    student: Sequence[float],
    class_names: Sequence[str],
    target: int = 0,
) -> Explorer:
    """Temperature and the teacher's confidence → both distributions and the terms of the loss.

    Args:
        teacher, student: logits of one sample.
        class_names: of the logits.
        target: position of the true class.
    """
    names = list(class_names)
    # One scale for all values of the sliders, or the bars would seem to stand still.
    reached = (
        logit_terms(np.array(teacher) + added * np.eye(len(names))[target], student, target, t)
        for added in (-4, 0, 4, 8)
        for t in (0.5, 1, 2, 5, 20)
    )
    longest = max(value for terms in reached for value in terms.values())

    def draw(temperature: float, confidence: float) -> tuple[Figure, str]:
        said = np.array(teacher, float)
        said[target] += confidence
        terms = logit_terms(said, student, target, temperature)
        pair = {
            name: torch.softmax(torch.tensor(z, dtype=torch.float64) / temperature, 0).numpy()
            for name, z in (("teacher", said), ("student", student))
        }
        shares = zip(names, pair["teacher"], strict=True)
        alt = (
            f"At temperature {temperature:.2g} the teacher gives "
            + ", ".join(f"{name} {share:.0%}" for name, share in shares)
            + f" (true: {names[target]}); "
            + ", ".join(f"{name} is {value:.3g}" for name, value in terms.items())
        )
        return figures.distributions(pair, names, terms, temperature, longest), alt

    controls = {
        "temperature": FloatLogSlider(
            1.0,
            min=-0.3,
            max=1.3,
            step=0.05,
            description="temperature T",
            style=_WIDE,
            layout=_LAYOUT,
            readout_format=".2f",
        ),
        "confidence": slider("added to the true logit", -4, 8, 0, 0.5),
    }
    return Explorer(draw, controls)


def explore_matching(student: torch.Tensor, teacher: torch.Tensor, heads: int = 1) -> Explorer:
    """A teacher position → where it looks in the student.

    Args:
        student, teacher: features of one sample ``(channels, positions)``, with equal channels.
        heads: of one-to-all matching.
    """
    loss, similarity = one_to_all_matching(student[None], teacher[None], heads, True, True)
    table = similarity[0].detach().numpy()

    def draw(position: int, head: int = 0) -> tuple[Figure, str]:
        row = table[head, position]
        alt = (
            f"Teacher position {position} looks at student position {int(row.argmax())} most, with "
            f"a share of {row.max():.0%}; the loss is {float(loss):.3g}"
        )
        return figures.similarity(table[head], position, table.max()), alt

    controls = {
        "position": IntSlider(
            0,
            min=0,
            max=table.shape[1] - 1,
            description="teacher position",
            style=_WIDE,
            layout=_LAYOUT,
        ),
    }
    if heads > 1:
        controls["head"] = IntSlider(
            0, min=0, max=heads - 1, description="head", style=_WIDE, layout=_LAYOUT
        )
    return Explorer(draw, controls)


def explore_guess(
    recordings: Recordings, rows: Sequence[int], answers: Mapping[str, Sequence[str]]
) -> Explorer:
    """Listen to a recording, guess by a button, see what it was and what the networks said.

    The first guess of each tile counts; the score stands below the picture.

    Args:
        recordings: of two kinds of classes, sound and defective.
        rows: of the recordings to choose from.
        answers: by network, what it said of each of these rows, "sound" or "defective".

    Raises:
        ArgumentError: if one of the rows is unlabelled.
    """
    names = recordings.class_names
    if (recordings.labels[np.asarray(rows, int)] == UNLABELLED).any():
        raise ArgumentError("Some of the rows are unlabelled; give rows whose class is known.")
    truth = [
        "sound" if names[recordings.labels[row]] in recordings.normal_classes else "defective"
        for row in rows
    ]
    guesses: dict[int, str] = {}

    def said(number: int) -> str:
        i = number - 1
        if i not in guesses:
            return f"Tile {number} of {len(rows)}: listen, then guess"
        verdict = "right" if guesses[i] == truth[i] else "wrong"
        others = "; ".join(f"the {name} said {of[i]}" for name, of in answers.items())
        return f"Tile {number} is {truth[i]}. Your guess, {guesses[i]}, is {verdict}; {others}"

    def score() -> str:
        right = {"you": sum(guess == truth[i] for i, guess in guesses.items())}
        right |= {name: sum(of[i] == truth[i] for i in guesses) for name, of in answers.items()}
        shown = ", ".join(f"{name} {count}" for name, count in right.items())
        tiles = f"{len(guesses)} tile{'s' * (len(guesses) > 1)}"
        return f"Right so far, of {tiles}: {shown}" if guesses else "No guess yet"

    def draw(number: int) -> tuple[Figure, str]:
        signal = np.asarray(recordings.signals[rows[number - 1]])
        bins = spectrum(signal[None], len(signal) // 8)[0].numpy()
        width = recordings.sample_rate / len(signal)
        alt = f"{said(number)}. Wave and spectrum. {score()}"
        return figures.impact(signal, recordings.sample_rate, bins, width), alt

    def below(number: int) -> str:
        sound = player(np.asarray(recordings.signals[rows[number - 1]]), recordings.sample_rate)
        return f'{sound}<div role="status">{escape(said(number))}.<br>{escape(score())}.</div>'

    controls = {
        "number": IntSlider(
            1, min=1, max=len(rows), description="tile", style=_WIDE, layout=_LAYOUT
        )
    }
    buttons = [ipywidgets.Button(description=kind) for kind in ("sound", "defective")]
    explorer = Explorer(draw, controls, below, buttons)

    def guess(button: ipywidgets.Button) -> None:
        guesses.setdefault(controls["number"].value - 1, button.description)
        explorer.follow()

    for button in buttons:
        button.on_click(guess)
    return explorer


def explore_sizes(length: int, classes: int = 6) -> Explorer:
    """Depth, width and head of a network → its parameters by part, and its receptive field.

    Args:
        length: of the networks' input.
        classes: number of classes.
    """

    def draw(depth: int, width: float, head: str) -> tuple[Figure, str]:
        with torch.device("meta"):  # shapes without values
            network = resnet1d(depth, classes, width, head)
        table = sizes(network)
        parts = dict(zip(table["part"][:-1], table["parameters"][:-1], strict=True))
        field, largest = receptive_field(network), max(parts, key=parts.get)
        alt = (
            f"ResNet{depth}-1D at width {width:g} with the {head} head has {sum(parts.values()):,} "
            f"parameters, most of them ({parts[largest]:,}) in {largest}; one feature sees "
            f"{min(field, length):,} of {length:,} input values"
        )
        return figures.anatomy(parts, field, length), alt

    widths = {f"1/{n}": 1 / n for n in (16, 8, 4, 2)} | {"1": 1.0}
    controls = {
        "depth": choice("depth", (10, 18, 34, 50)),
        "width": ipywidgets.SelectionSlider(
            options=list(widths.items()), description="width", style=_WIDE, layout=_LAYOUT
        ),
        "head": choice("head", ("small", "published")),
    }
    return Explorer(draw, controls)


def explore_weights(histories: Mapping[str, pd.DataFrame]) -> Explorer:
    """A strategy and an epoch → the weights up to it, and the accuracy.

    Args:
        histories: of each strategy's training, with ``weight_feature`` and so on.
    """
    last = max(int(history["epoch"].max()) for history in histories.values())
    top = max(history.filter(like="weight_").sum(axis=1).max() for history in histories.values())

    def draw(strategy: str, epoch: int) -> tuple[Figure, str]:
        seen = histories[strategy][histories[strategy]["epoch"] <= epoch]
        now = seen.iloc[-1]
        names = [name for name in seen if name.startswith("weight_")]
        alt = (
            f"Strategy {strategy} after {int(now['epoch'])} epochs: "
            + ", ".join(f"{name.removeprefix('weight_')} {now[name]:.3g}" for name in names)
            + f"; validation accuracy {now['validation_accuracy']:.0%}. {now['verdict']}"
        )
        return figures.weights(seen, last, top), alt.strip()

    controls = {
        "strategy": choice("strategy", list(histories)),
        "epoch": IntSlider(
            last, min=1, max=last, description="up to epoch", style=_WIDE, layout=_LAYOUT
        ),
    }
    return Explorer(draw, controls)


def explore_ablations(table: pd.DataFrame) -> Explorer:
    """The weights of three terms → the stored students that learned with them.

    Args:
        table: a row for every combination of ``alpha``, ``mu`` and ``nu``; see
            :func:`hfld_lite.course.figures.weights_sweep`, and ``against_alone``, ``lowest``,
            ``highest``.
    """

    def draw(alpha: float, mu: float, nu: float) -> tuple[Figure, str]:
        mine = (table[["alpha", "mu", "nu"]] == [alpha, mu, nu]).all(axis=1)
        row = table[mine].iloc[0]
        mean, low, high = 100 * row[["against_alone", "lowest", "highest"]]
        alt = (
            f"With α = {alpha:g}, μ = {mu:g}, ν = {nu:g} the students reach "
            f"{row['validation_accuracy']:.1%} on average, {mean:+.1f} points against labels alone "
            f"({low:+.1f} to {high:+.1f} over {row['seeds']:.0f} seeds)"
        )
        figure = figures.weights_sweep(table, (alpha, mu, nu))
        figure.suptitle(fill(alt, 95), fontsize=9)
        return figure, alt

    labels = {"alpha": "α, feature matching", "mu": "μ, TCKD", "nu": "ν, NCKD"}
    controls = {
        name: ipywidgets.SelectionSlider(
            options=[(f"{value:g}", value) for value in sorted(table[name].unique())],
            value=table[name].max(),
            description=label,
            style=_WIDE,
            layout=_LAYOUT,
        )
        for name, label in labels.items()
    }
    return Explorer(draw, controls)


def cost_of(
    suspicion: np.ndarray,
    defective: np.ndarray,
    limit: float,
    miss: float,
    alarm: float,
    share: float,
) -> tuple[float, float, float]:
    """Miss rate, false alarm rate, and expected cost of a part at a limit.

    cost = π · r_miss · c_miss + (1 − π) · r_alarm · c_alarm, with the share π of defective parts in
    production, which is not that of a test set.

    Args:
        suspicion: probability of a defect ``(n,)``; called defective from the limit on.
        defective: booleans ``(n,)``, some of each.
        limit: from 0 to 1.
        miss, alarm: what a missed defect and a false alarm cost.
        share: of defective parts in production, from 0 to 1.
    """
    called = suspicion >= limit
    missed, alarmed = float((~called)[defective].mean()), float(called[~defective].mean())
    return missed, alarmed, share * missed * miss + (1 - share) * alarmed * alarm


def explore_threshold(suspicion: np.ndarray, defective: np.ndarray) -> Explorer:
    """A limit, two prices and the share of defective parts → misses, false alarms, money.

    Args:
        suspicion: probability of a defect of each recording ``(n,)``.
        defective: booleans ``(n,)``, some of each.
    """
    suspicion, defective = np.asarray(suspicion, float), np.asarray(defective, bool)
    limits = np.linspace(0, 1, 201)

    def draw(limit: float, miss: float, alarm: float, percent: float) -> tuple[Figure, str]:
        prices = (miss, alarm, percent / 100)
        missed, alarmed, cost = cost_of(suspicion, defective, limit, *prices)
        costs = np.array([cost_of(suspicion, defective, each, *prices)[2] for each in limits])
        alt = (
            f"With the limit at {limit:.2f}, {missed:.1%} of the defective recordings are missed "
            f"and {alarmed:.1%} of the sound ones cause an alarm. A part costs {cost:.3g} on "
            f"average; the cheapest limit is {limits[costs.argmin()]:.2f} with {costs.min():.3g}"
        )
        figure = figures.threshold(suspicion, defective, limit, limits, costs)
        figure.suptitle(fill(alt, 95), fontsize=9)
        return figure, alt

    controls = {
        "limit": slider("limit", 0, 1, 0.5, 0.01),
        "miss": slider("cost of a miss", 0, 200, 100, 5),
        "alarm": slider("cost of a false alarm", 0, 50, 5, 1),
        "percent": slider("defective parts, %", 0.5, 50, 5, 0.5),
    }
    return Explorer(draw, controls)


def explore_devices(students: Mapping[str, "Needs"], accuracy: Mapping[str, float]) -> Explorer:
    """A device → which students fit on it, and how good these are.

    Args:
        students: what each needs, of :func:`hfld_lite.edge.devices.needs` (estimated).
        accuracy: of each, from 0 to 1.
    """
    # Imported here, because the other notebooks do not require the packages of the extra "edge".
    from hfld_lite.edge.devices import DEVICES, judge
    from hfld_lite.edge.devices import device as find_device

    def draw(device: str) -> tuple[Figure, str]:
        on = find_device(device)
        judged = {name: judge(needed, on) for name, needed in students.items()}
        fitting = [name for name, verdict in judged.items() if verdict.fits]
        best = max(fitting, key=accuracy.get, default=None)
        said = f"the best of them is {best} with {accuracy[best]:.1%}" if best else "none is left"
        alt = f"{len(fitting)} of {len(judged)} students fit on {on.name}; {said}"
        return figures.fitting(judged, accuracy, alt), alt

    return Explorer(draw, {"device": choice("device", [device.name for device in DEVICES])})
