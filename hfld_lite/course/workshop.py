"""From a folder of sound files to a detector's file: check, train, export, in a notebook.

Each step is a function that works without a notebook; the widget connects them to a text field and
buttons, shows the results, and reports each error in one sentence.
"""

import csv
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import soundfile

from hfld_lite.app.checks import said_of_unlabelled
from hfld_lite.app.export import export_run
from hfld_lite.app.figures import confusions, spectra
from hfld_lite.app.good import parts_of, said_of_good
from hfld_lite.app.report import report_run
from hfld_lite.app.runs import Run, load_run, or_note, save_run, with_known_costs
from hfld_lite.app.style import png
from hfld_lite.app.unfinished import Wanted, new_run
from hfld_lite.course.monitor import Monitor, monitor
from hfld_lite.course.widgets import image
from hfld_lite.data.good_parts import as_good
from hfld_lite.data.readers import read_folder
from hfld_lite.data.recordings import UNLABELLED, Recordings
from hfld_lite.data.splits import Split, split
from hfld_lite.data.views import frequencies, network_inputs
from hfld_lite.edge.deploy import Export
from hfld_lite.edge.export import CALIBRATION
from hfld_lite.errors import ArgumentError, DataError, HfldError
from hfld_lite.evaluation.baselines import USUAL
from hfld_lite.evaluation.detector import TestResult
from hfld_lite.evaluation.good_parts import GoodParts
from hfld_lite.hierarchy import Chain
from hfld_lite.recipes import Recipe
from hfld_lite.rivals.presets import preset
from hfld_lite.storage.files import portable_name

_LAYOUT = {"width": "44em"}
_STYLE = {"description_width": "11em"}


@dataclass(frozen=True)
class Checked:
    """A folder that can be trained on.

    Attributes:
        recordings: what was read.
        parts: the split that training will draw.
        notes: what was left out, cut or mixed down, and what to consider before training.
    """

    recordings: Recordings
    parts: Split
    notes: tuple[str, ...]

    @property
    def words(self) -> str:
        """What was found, in a sentence or two."""
        found, groups = self.recordings, self.recordings.groups
        counts = ", ".join(f"{name} {part.size}" for name, part in self.parts.parts().items())
        return (
            f"{len(found)} recordings of {len(set(groups))} parts, {found.samples} samples at "
            f"{found.sample_rate} Hz, classes {', '.join(found.class_names)}. Recordings: {counts}."
        )


def write_wav_folder(recordings: Recordings, folder: str | Path) -> Path:
    """Write recordings as WAV files of 16 bits, a subfolder a class, with a ``manifest.csv``.

    The loudest sample of all is at nine tenths of full scale. The manifest has the columns
    ``file``, ``label`` (empty where not known) and ``group``, which :func:`read_wav_folder` reads.

    Args:
        recordings: of classes whose names can be folders.
        folder: new or empty.

    Returns:
        The folder.

    Raises:
        DataError: if the folder is not empty or cannot be written.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(folder, "the folder is not empty", expected="a new or empty folder")
    scale = 0.9 / np.abs(recordings.signals).max()
    rows, digits = [("file", "label", "group")], len(str(len(recordings)))
    try:
        for row, (signal, label, group) in enumerate(
            zip(recordings.signals, recordings.labels, recordings.groups, strict=True)
        ):
            name = "" if label == UNLABELLED else recordings.class_names[label]
            stem = portable_name(name or "unlabelled")
            path = folder / stem / f"{stem}_{row:0{digits}}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, scale * signal, recordings.sample_rate, "PCM_16")
            rows.append((f"{stem}/{path.name}", name, group))
        with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(folder, f"cannot be written ({error})") from error
    return folder


def check_folder(
    folder: str | Path, recipe: Recipe | None = None, good: str = "", **options: Any
) -> Checked:
    """Read a folder of recordings and draw its split, without training anything.

    Args:
        folder: of any layout that :func:`read_folder` knows.
        good: class of good parts, for a training on these alone; a folder's only class is good.
        recipe: whose split and inputs are tried; by default the preset classroom.
        options: for the reader, such as ``samples`` or ``group_pattern``.

    Raises:
        HfldError: in one sentence, what cannot be read, split or given to the networks.
    """
    recipe = recipe or preset("classroom")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recordings = read_folder(folder, one_class=True, **options)
    notes = [str(warning.message) for warning in caught]
    network_inputs(recordings.signals[:1], recipe, recordings.sample_rate)
    if good or len(recordings.class_names) == 1:
        recordings = as_good(recordings, [good or recordings.class_names[0]])
        parts = parts_of(recordings, recipe, Wanted())
        notes += [*recordings.notes, *said_of_good(recordings, parts, Wanted())]
        return Checked(recordings, parts, tuple(notes))
    parts = split(recordings, validation=recipe.validation, test=recipe.test, seed=recipe.seed)
    if len(set(recordings.groups)) == len(recordings):
        notes.append(
            "Each recording counts as a part of its own; if some come from the same part, name the "
            "parts in the manifest's column group or by a pattern of the file names, or the test "
            "is too good to be true."
        )
    if not recordings.normal_classes:
        notes.append(
            f"None of the classes {', '.join(recordings.class_names)} is known to be the sound one "
            "(n, normal, ok, good, sound, intact), so there are no misses and no false alarms."
        )
    if len(recordings.class_names) == 2:
        notes.append(
            "With two classes the term NCKD of the loss is zero; where there are several types of "
            "parts, give each its own classes, such as AN, AD, BN, BD."
        )
    notes += said_of_unlabelled(recordings, recipe, parts)
    if len(parts.train) < CALIBRATION:
        notes.append(
            f"Only {len(parts.train)} recordings are trained on; an export in eight bits needs "
            f"{CALIBRATION}."
        )
    return Checked(recordings, parts, tuple(notes))


def in_words(result: TestResult, role: str = "student") -> str:
    """A network's figures on the test part in a sentence."""
    found = result.evaluations[role]
    if list(found.confusion.shape) == [2, 2] and found.miss_rate is None:
        return (
            f"Of {found.count} good test recordings {found.false_alarm_rate:.1%} are called "
            f"defective (95 % interval {1 - found.high:.1%} to {1 - found.low:.1%}); how many "
            "defects are missed is unknown, since there was none."
        )
    said = (
        f"The {role.replace('_', ' ')} is right for {found.accuracy:.1%} of {found.count} test "
        f"recordings (95 % interval {found.low:.1%} to {found.high:.1%})"
    )
    if found.miss_rate is not None and found.false_alarm_rate is not None:
        said += (
            f". It misses {found.miss_rate:.1%} of the defective ones, and raises an alarm for "
            f"{found.false_alarm_rate:.1%} of the sound ones"
        )
    return said + "."


def keep_run(
    folder: str | Path,
    chain: Chain,
    result: TestResult,
    recordings: Recordings,
    origin: dict[str, Any],
    good: GoodParts | None = None,
) -> Run:
    """Write a trained chain as a run folder, as ``hfld train`` does, and read it back.

    Args:
        folder: must not exist yet.
        chain, result, recordings: as trained and tested.
        origin: ``{"folder": …, "options": …}``, how to read the recordings again.
        good: what a training on good parts gave, if it was one.

    Raises:
        RecipeError: if the folder is taken or cannot be written.
    """
    with new_run(folder) as part:
        result = with_known_costs(result, chain.detector, recordings)
        command = "in a notebook, by hfld_lite.course.workshop"
        names = () if good else USUAL
        save_run(part, chain, result, recordings, origin, command, names, good)
    or_note(
        f"The run is finished and safe, but its report is missing; make it with: hfld report "
        f"{folder}",
        lambda: report_run(folder, recordings, chain.examples),
    )
    return load_run(folder)


def folder_beside(folder: str | Path) -> Path:
    """A folder that does not exist yet, beside that of the recordings, for their detector."""
    folder = Path(folder).absolute()
    name = f"{folder.name or 'recordings'}-detector"
    made = (folder.with_name(name + (f"-{number}" if number > 1 else "")) for number in count(1))
    return next(path for path in made if not path.exists())


class Workshop(ipywidgets.VBox):
    """Point at a folder of recordings: check it, train on it, export the student.

    Check reads and splits; Train trains the chain in the background (with its own buttons for
    pause and stop) and then evaluates on the test part, once; Export writes a run folder and, for
    the device, the student in eight bits with its program. A button reports any error in one
    sentence and keeps earlier results: a folder that cannot be written does not lose the training.

    Args:
        folder: of recordings, the first value of the field.
        out: folder to be made, for ``run`` and ``device`` in it; by default, and for every other
            folder that is typed into the field, :func:`folder_beside`.
        recipe: by default the preset classroom.
        group_pattern: finds the part in a file's name; see :func:`read_wav_folder`.
        options: for the reader, such as ``samples``.

    Attributes:
        checked, live, result, run, export: what the steps gave; None before.
        alt: the words that are shown.
        error: what the last button failed with, or None.
    """

    def __init__(
        self,
        folder: str | Path = "",
        out: str | Path | None = None,
        recipe: Recipe | None = None,
        group_pattern: str = "",
        **options: Any,
    ) -> None:
        self.recipe, self.options, self.error = recipe or preset("classroom"), options, None
        self._proposed = str(out or folder_beside(folder))
        self.fields = {
            name: ipywidgets.Text(
                str(value),
                description=label,
                placeholder=hint,
                layout=_LAYOUT,
                style=_STYLE,
                continuous_update=False,
            )
            for name, label, value, hint in (
                ("folder", "folder of recordings", folder, "such as C:\\tiles or ~/tiles"),
                (
                    "pattern",
                    "part in the file name",
                    group_pattern,
                    "such as (tile[0-9]+); empty if manifest.csv names the parts",
                ),
                (
                    "good",
                    "class of good parts",
                    "",
                    "empty to learn all classes; such as good, to learn from good parts alone",
                ),
                ("out", "write to", self._proposed, "a new folder"),
            )
        }
        steps = (
            ("Check", "read the folder and draw the split", "search", self.check),
            ("Train", "train the chain in the background", "play", self.train),
            ("Export", "write the run and the file for the device", "download", self.export_files),
        )
        self.buttons = {}
        for name, does, icon, step in steps:
            self.buttons[name] = ipywidgets.Button(description=name, tooltip=does, icon=icon)
            self.buttons[name].on_click(lambda _, step=step: self._try(step))
        self.status, self.picture = ipywidgets.HTML(), ipywidgets.HTML()
        self.training = ipywidgets.VBox()
        self._forget()
        self.fields["folder"].observe(self._propose, "value")
        for name in ("folder", "pattern", "good"):
            self.fields[name].observe(lambda _: self._forget(), "value")
        super().__init__(
            [
                *self.fields.values(),
                ipywidgets.HBox([*self.buttons.values()]),
                self.status,
                self.training,
                self.picture,
            ]
        )

    def check(self) -> Checked:
        """Read the folder and draw its split; raises as :func:`check_folder` does."""
        self._forget()
        good = self.fields["good"].value.strip()
        self.checked = check_folder(self._path("folder"), self.recipe, good, **self._options())
        recordings = self.checked.recordings
        rate = recordings.sample_rate
        if (hertz := frequencies(self.recipe, recordings.samples, rate)) is not None:
            figure = spectra(
                network_inputs(recordings.signals, self.recipe, rate).numpy(),
                recordings.labels,
                recordings.class_names,
                hertz,
            )
            alt = "Mean spectrum of each class with the middle 80 % of its recordings. "
            self.picture.value = image(png(figure, dpi=90), alt + self.checked.words)
        self._say("Checked", self.checked.words, *self.checked.notes)
        return self.checked

    def train(self) -> Monitor:
        """Train in the background; if this training was started before, show that one.

        Raises:
            ArgumentError: if the folder was not checked, or another training is running.
        """
        if self.checked is None:
            raise ArgumentError("The folder is not checked yet; press Check, or call check().")
        self.live = monitor(self.checked.recordings, self.recipe)
        self.training.children = [self.live]
        self._say("Training", "Pause and Stop take effect at the end of the current epoch.")
        self.live.status.observe(self._follow, "value")
        self._follow()
        return self.live

    def wait(self, seconds: float | None = None) -> TestResult:
        """Block until the training is finished and tested; raises as :meth:`Monitor.wait` does."""
        if self.live is None:
            raise ArgumentError("Nothing is trained yet; press Train, or call train().")
        self.live.wait(seconds)
        self._finish()
        return self.result

    def export_files(self) -> Export:
        """Write ``run`` and ``device`` into the folder *write to*.

        Raises:
            ArgumentError: if there is nothing to export yet.
            HfldError: if the folder is taken or cannot be written, or as :func:`export_run` does.
        """
        if self.result is None:
            raise ArgumentError("Nothing is trained yet; press Train, or call train() and wait().")
        out = self._path("out")
        if self.run is None or self.run.folder != out / "run":
            if (out / "run").exists():
                raise ArgumentError(
                    f"{out} has a folder 'run' already, which is kept; type a new folder, such as "
                    f"{folder_beside(self._path('folder')).name}, into 'write to'."
                )
            origin = {"folder": str(self._path("folder").absolute()), "options": self._options()}
            chain, recordings = self.live.chain, self.checked.recordings
            if recordings.kinds is not None:
                kinds = np.unique(recordings.kinds[recordings.labels == 0])
                origin["good"] = kinds.tolist()
            self._say("Exporting", f"Evaluates, quantises and writes into {out.name}.")
            given = (chain, self.result, recordings, origin, self.live.good)
            self.run = keep_run(out / "run", *given)
        role = self.run.detector.answering
        self.export = export_run(self.run, out / "device", "onnx-int8", role=role)
        change, low, high = (100 * value for value in self.export.change)
        self._say(
            "Exported",
            f"{self.export.model.name} has {self.export.bytes:,} bytes in eight bits; its test "
            f"accuracy differs from the trained {role.replace('_', ' ')}'s by {change:+.1f} points ({low:+.1f} to "
            f"{high:+.1f}). It is in {out.name}/device with {self.export.program.name}; the run "
            f"with its report.html is in {out.name}/run.",
        )
        return self.export

    def _path(self, name: str) -> Path:
        """What a field names; Windows copies a path with quotes."""
        return Path(self.fields[name].value.strip().strip('"')).expanduser()

    def _options(self) -> dict[str, Any]:
        pattern = self.fields["pattern"].value.strip()
        return self.options | ({"group_pattern": pattern} if pattern else {})

    def _propose(self, _: Any = None) -> None:
        """Another folder's detector gets a place of its own, unless the user has chosen one."""
        if self.fields["out"].value == self._proposed:
            self._proposed = str(folder_beside(self._path("folder")))
            self.fields["out"].value = self._proposed

    def _forget(self) -> None:
        """Discard the results of the former folder."""
        if getattr(self, "live", None) is not None:
            self.live.status.unobserve(self._follow, "value")
        self.checked, self.live, self.result = None, None, None
        self.run, self.export = None, None
        self.training.children, self.picture.value = [], ""
        self._say("Ready", "Type a folder and press Check.")

    def _follow(self, _: Any = None) -> None:
        if self.live is not None and self.live.chain is not None:
            self._try(self._finish)

    def _finish(self) -> None:
        """Evaluate on the test part, once."""
        if self.result is not None:
            return
        self.result = self.live.chain.test(self.checked.recordings)
        figure = confusions(
            {role: found.confusion for role, found in self.result.evaluations.items()},
            self.checked.recordings.class_names,
        )
        words = in_words(self.result, self.live.chain.detector.answering)
        self.picture.value = image(
            png(figure, dpi=90), f"Confusion matrices of all networks. {words}"
        )
        self._say("Tested", words)

    def _try(self, step: Callable[[], Any]) -> None:
        """Run a step when its button is pressed; report an error and keep everything else.

        JupyterLab shows an exception of a button only in its log, so that none may leave here.
        """
        self.error = None
        try:
            step()
        except HfldError as error:
            self.error = error
            self._say("Not done", str(error))
        except Exception as error:
            self.error = error
            self._say("Not done", f"Unexpected error, {type(error).__name__}: {error}")

    def _say(self, what: str, *sentences: str) -> None:
        self.alt = f"{what}. {' '.join(sentences)}"
        lines = "".join(f"<div>{escape(sentence)}</div>" for sentence in sentences)
        self.status.value = f'<div role="status"><b>{escape(what)}.</b> {lines}</div>'
        for name, may in (
            ("Check", True),
            ("Train", self.checked is not None),
            ("Export", self.result is not None),
        ):
            self.buttons[name].disabled = not may

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and its words and picture for pages that have no kernel."""
        page = self.status.value + self.picture.value
        return super()._repr_mimebundle_(**kwargs) | {"text/html": page, "text/plain": self.alt}
