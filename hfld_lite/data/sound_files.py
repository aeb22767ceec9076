"""Recordings from folders of WAV or FLAC files."""

from __future__ import annotations

import csv
import math
import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.signal
import soundfile
from tqdm.auto import tqdm

from hfld_lite.data.layouts import (
    SOUND_LAYOUT,
    SOUNDS,
    expression,
    float32,
    known_classes,
    left_out,
    listing,
    need_two,
    pooled_order,
    some,
)
from hfld_lite.data.recordings import Recordings, positive
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.storage.files import RATIO, SLACK, read_text, regular_size, unfolded

_MANIFEST_BYTES = 1 << 24
_MOST_RATIO = 1 << 18
_RIFF, _RF64, _W64, _FLAC = (b"RIFF", b"RIFX"), b"RF64", b"riff\x2e\x91\xcf\x11", b"fLaC"
_MOST_CHUNKS = 1000
_NORMAL = {"n", "normal", "ok", "good", "sound", "intact"}


class _Sound(NamedTuple):
    """A WAV or FLAC file: its name below the folder, its class, its group and its header."""

    path: Path
    name: str
    label: str
    group: str
    rate: int
    frames: int
    channels: int


def read_wav_folder(
    folder: str | Path,
    *,
    samples: int | None = None,
    pad: bool = False,
    sample_rate: int | None = None,
    resample: bool = False,
    manifest: str | Path | None = None,
    group_pattern: str | None = None,
    normal: Sequence[str] | None = None,
    progress: bool = False,
) -> Recordings:
    """Read a folder of WAV or FLAC files, one recording a file.

    The classes are the subfolders, or stand in a manifest: a CSV file with the columns ``file``
    (path below `folder`), ``label`` (class name) and, if wanted, ``group`` (physical tile). Several
    channels are averaged into one.

    Args:
        folder: what to read.
        samples: use the first so many of each file; where not given, all must be equally long.
        pad: append zeros to files shorter than `samples`, instead of refusing them.
        sample_rate: in Hz, what the files must have, or, with `resample`, will have.
        resample: convert files of other rates (polyphase filter) to `sample_rate`, or where that
            isn't given to the most common rate.
        manifest: the CSV file; where not given, ``manifest.csv`` in `folder` if it is there.
        group_pattern: regular expression that finds the tile in a file's name, by its one group:
            ``"(tile[0-9]+)"``. Without it and without the column, each file is its own group.
        normal: names of the normal classes; where not given: n, normal, ok, good, sound, intact
            in any case, or those that end in N where all are like AN, AD.
        progress: show a bar.

    Raises:
        DataError: a file is not of this layout, or damaged.
        ArgumentError: an argument is wrong.
    """
    folder = Path(folder)
    for name, value in (("samples", samples), ("sample_rate", sample_rate)):
        if value is not None:
            positive(value, name)
    if manifest is None and (folder / "manifest.csv").is_file():
        manifest = folder / "manifest.csv"
    listed = _from_manifest(folder, Path(manifest)) if manifest else _from_subfolders(folder)
    if group_pattern is not None:
        listed = _grouped(listed, expression(group_pattern, "group_pattern"))
    names = sorted({label for _, label, _ in listed.values()})
    normal, names = _wav_classes(names, normal)
    need_two(names, folder)
    sounds = [_Sound(path, *entry, *_header(path)) for path, entry in listed.items()]
    rate = _common_rate(sounds, sample_rate, resample)
    signals = [_signal(s, rate) for s in tqdm(sounds, "reading", disable=not progress)]
    notes = {
        "mixed down to one channel": sum(sound.channels > 1 for sound in sounds),
        f"resampled to {rate} Hz": sum(sound.rate != rate for sound in sounds),
    }
    samples = _common_length(sounds, signals, samples, pad)
    notes[f"cut to the first {samples} samples"] = sum(len(x) > samples for x in signals)
    notes[f"padded with zeros to {samples} samples"] = sum(len(x) < samples for x in signals)
    said = "; ".join(f"{count} {what}" for what, count in notes.items() if count)
    if said:
        warnings.warn(f"{folder}: of {len(sounds)} files, {said}", stacklevel=2)
    return Recordings(
        signals=np.stack([np.pad(x[:samples], (0, max(0, samples - len(x)))) for x in signals]),
        labels=np.array([names.index(sound.label) for sound in sounds]),
        groups=np.array([sound.group for sound in sounds]),
        sample_rate=rate,
        class_names=names,
        normal_classes=normal,
        origins=np.array([f"{sound.name}:0" for sound in sounds]),
        source=f"{folder.resolve().name}: {len(sounds)} sound files{said and f' ({said})'}",
        units="full scale",
    )


def _from_subfolders(folder: Path) -> dict[Path, tuple[str, str, str]]:
    """Find the sound files: name below the folder, class, group."""
    found, left = {}, []
    for inside in listing(folder):
        if not inside.is_dir() or inside.name.startswith("."):
            left.append(inside)
            continue
        files = listing(inside)
        sounds = [path for path in files if path.suffix.lower() in SOUNDS and path.is_file()]
        if not sounds:
            raise DataError(
                inside,
                f"holds no WAV or FLAC file: {some(files)}",
                expected=SOUND_LAYOUT,
                mend="take the folder out if it is no class",
            )
        left += [path for path in files if path not in sounds]
        for path in sounds:
            name = path.relative_to(folder).as_posix()
            found[path] = (name, inside.name, name)
    if not found:
        raise DataError(folder, f"holds no class folder: {some(left)}", expected=SOUND_LAYOUT)
    left_out(folder, left, "are no WAV or FLAC files in a class's folder")
    return found


def _from_manifest(folder: Path, manifest: Path) -> dict[Path, tuple[str, str, str]]:
    """Read the sound files' names below the folder, classes and groups from a CSV file."""
    root, found, line = folder.resolve(), {}, 1
    if not folder.is_dir():
        raise DataError(folder, "is not there", expected="a folder")
    try:
        text = read_text(manifest, _MANIFEST_BYTES, "utf-8-sig")
        reader = csv.DictReader(StringIO(text, newline=""), strict=True)
        if sorted(reader.fieldnames or []) not in (["file", "label"], ["file", "group", "label"]):
            raise DataError(
                f"{manifest}, line 1",
                f"the columns are {', '.join(reader.fieldnames or []) or 'none'}",
                expected="file,label or file,label,group, with commas between",
            )
        for row in reader:
            line = reader.line_num
            if None in row or not all(row.values()):
                raise DataError(
                    f"{manifest}, line {line}",
                    "a field is empty, missing or too much",
                    expected=f"{len(reader.fieldnames)} fields",
                )
            path = (root / row["file"]).resolve()
            fault = ""
            if not path.is_relative_to(root):
                fault = "lies outside the folder"
            elif not path.is_file():
                fault = "is not there"
            elif path.suffix.lower() not in SOUNDS:
                fault = "is no WAV or FLAC file"
            elif path in found:
                fault = "is listed twice"
            if fault:
                raise DataError(
                    f"{manifest}, line {line}",
                    f"the file {row['file']!r} {fault}",
                    expected=f"a file below {folder}, listed once",
                )
            name = path.relative_to(root).as_posix()
            found[path] = (name, row["label"], row.get("group", name))
    except (OSError, ValueError, RuntimeError, csv.Error) as error:  # Runtime: links in a circle
        raise DataError(
            f"{manifest}, line {line}", f"cannot be read ({error})", expected="a CSV file in UTF-8"
        ) from error
    left = [path for path in sorted(root.rglob("*")) if path.is_file() and path not in found]
    left_out(folder, [path for path in left if path != manifest.resolve()], "the manifest lacks")
    return found


def _grouped(listed: dict[Path, tuple], pattern: re.Pattern) -> dict[Path, tuple]:
    """Put the tile's name, found in the file's name, in the place of the group."""
    grouped = {}
    for path, (name, label, group) in listed.items():
        if group != name:
            raise ArgumentError("Groups stand in the manifest, so leave out group_pattern.")
        match = pattern.search(path.name)
        if not match or not match[1]:
            raise DataError(
                path,
                "the name does not tell the tile",
                expected=f"a name in which {pattern.pattern!r} is found",
                mend="rename the file or give another group_pattern",
            )
        grouped[path] = (name, label, match[1])
    return grouped


def _wav_classes(names: Sequence[str], normal: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the normal classes and all classes in order: types, else normal ones first."""
    pooled = all(re.fullmatch("[A-Z0-9]{0,2}[ND]", name) for name in names)
    if normal is None:
        normal = [name for name in names if name.lower() in _NORMAL]
        normal = normal or [name for name in names if pooled and name.endswith("N")]
    normal = known_classes(normal, names)
    key = pooled_order if pooled else lambda name: (name not in normal, name)
    return normal, sorted(set(names), key=key)


def _header(path: Path) -> tuple[int, int, int]:
    """Return a sound file's rate in Hz, its samples and its channels."""
    try:
        if (size := regular_size(path)) == 0:
            raise DataError(path, "is empty", expected="a WAV or FLAC file", mend="copy it again")
        _check_container(path, size)
        info = soundfile.info(path)
        if info.frames * info.channels > unfolded(size):
            raise ValueError(
                f"it claims {info.frames} samples in {info.channels} channels and has {size} bytes"
            )
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise DataError(
            path,
            f"is damaged or no sound file ({error})",
            expected="a WAV or FLAC file",
            mend="copy it again",
        ) from error
    if info.frames == 0:
        raise DataError(path, "is empty: it has a header but no samples", mend="record it again")
    return info.samplerate, info.frames, info.channels


def _check_container(path: Path, size: int) -> None:
    """Raise a ValueError unless the file begins as WAV or FLAC, and a WAV holds what it claims.

    libsndfile knows two dozen other formats, which nobody asked for here, and cuts a sound that
    ends too early in silence. WAV: "RIFF", "RIFX" (big-endian) or "RF64" (EBU Tech 3306: sizes in
    the chunk "ds64"), a size, "WAVE", then chunks of name, size and content, padded to two bytes.
    Sony's Wave64 has GUIDs for names, 64-bit sizes that include the chunk's head, and pads to 8.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head.startswith(_FLAC):
            return
        wave64, big = head.startswith(_W64), head.startswith(b"RIFX")
        if not wave64 and not (head[:4] in (*_RIFF, _RF64) and head[8:] == b"WAVE"):
            raise ValueError("it begins like neither of them")
        form = "<16sQ" if wave64 else ">4sI" if big else "<4sI"
        width, pad = struct.calcsize(form), 8 if wave64 else 2
        file.seek(40 if wave64 else 12)
        long_size = None
        for _ in range(_MOST_CHUNKS):
            if len(chunk := file.read(width)) < width:
                raise ValueError("it holds no sound: the chunk 'data' is missing")
            name, claimed = struct.unpack(form, chunk)
            claimed -= width if wave64 else 0
            if name == b"ds64" and (content := file.read(16)):
                long_size = struct.unpack("<Q", content[8:])[0] if len(content) == 16 else None
                file.seek(-len(content), os.SEEK_CUR)
            if name[:4] == b"data":
                if claimed == 0xFFFFFFFF and head.startswith(_RF64) and long_size is not None:
                    claimed = long_size
                if not 0 <= claimed <= size - file.tell():
                    raise ValueError(
                        f"it claims {claimed} bytes of sound and has {size - file.tell()}, so it "
                        "was cut off or its writing was never finished"
                    )
                return
            if not 0 <= claimed <= size:
                raise ValueError(f"a chunk claims {claimed} bytes, and the file has {size}")
            file.seek(claimed + -claimed % pad, os.SEEK_CUR)
        raise ValueError(f"no sound is found within {_MOST_CHUNKS} chunks")


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Read a WAV or FLAC file as one channel: float32 ``(samples,)``, and its rate in Hz."""
    rate, frames, _ = _header(path)
    try:
        data, _ = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, MemoryError) as error:
        raise DataError(path, f"is damaged ({error})", mend="copy it again") from error
    if len(data) != frames:
        raise DataError(path, f"ends after {len(data)} samples", expected=f"{frames}, as it says")
    return (data.mean(axis=1) if data.shape[1] > 1 else data[:, 0]), rate


def _signal(sound: _Sound, rate: int) -> np.ndarray:
    """Read a sound file as one channel at `rate` Hz: float32 ``(samples,)``."""
    signal, _ = read_sound(sound.path)
    if sound.rate != rate:
        common = math.gcd(rate, sound.rate)
        up, down = rate // common, sound.rate // common
        # the filter has 20 · max(up, down) coefficients, and the result up / down as many samples
        if max(up, down) > _MOST_RATIO or len(signal) * up > max(SLACK, RATIO * len(signal)) * down:
            raise DataError(
                sound.path,
                f"says that its rate is {sound.rate} Hz, which cannot be converted to {rate} Hz",
                expected="a usual sample rate",
                mend="correct the header or take the file out",
            )
        signal = scipy.signal.resample_poly(signal, up, down)
    return float32(signal)


def _common_rate(sounds: Sequence[_Sound], sample_rate: int | None, resample: bool) -> int:
    rate = sample_rate or Counter(sound.rate for sound in sounds).most_common(1)[0][0]
    for sound in sounds:
        if sound.rate != rate and not resample:
            usual = next((other for other in sounds if other.rate == rate), None)
            raise DataError(
                sound.path,
                f"is at {sound.rate} Hz",
                expected=f"{rate} Hz" + (f", as {usual.name} is" if usual else ""),
                mend="ask for resampling (resample=True, --resample)",
            )
    return rate


def _common_length(
    sounds: Sequence[_Sound], signals: Sequence[np.ndarray], samples: int | None, pad: bool
) -> int:
    shortest = min(range(len(signals)), key=lambda row: len(signals[row]))
    longest = max(range(len(signals)), key=lambda row: len(signals[row]))
    least, most = len(signals[shortest]), len(signals[longest])
    if samples is None and least < most:
        raise DataError(
            sounds[shortest].path,
            f"has {least} samples and {sounds[longest].name} has {most}",
            expected="files of equal length",
            mend=f"say how many samples to use (samples={least} uses the first {least} of each)",
        )
    if samples is not None and least < samples and not pad:
        raise DataError(
            sounds[shortest].path,
            f"has {least} samples",
            expected=f"{samples} or more",
            mend="ask for fewer samples or for zeros at the end (pad=True, --pad)",
        )
    return samples or least
