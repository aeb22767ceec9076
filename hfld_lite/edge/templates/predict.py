"""Classify WAV files: python predict.py impact.wav ... (needs numpy and onnxruntime only).

The exit status is 2 if a file could not be read; the others are answered all the same.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import onnxruntime

MODEL = onnxruntime.InferenceSession(str(Path(__file__).with_name("MODEL_FILE")))
FACTS = json.loads(MODEL.get_modelmeta().custom_metadata_map["hfld_lite"])


starts = ...  # here the library puts the functions that it cuts with


def wav(path):
    """A WAV file's samples, float32 ``(samples, channels)``; its rate in Hz; notes."""
    if not path.is_file():
        raise ValueError("is not there, or is not a file")
    data = path.read_bytes()
    if not data:
        raise ValueError("is empty")
    if data[:4] not in (b"RIFF", b"RF64", b"BW64") or data[8:12] != b"WAVE":
        kind = "is FLAC" if data[:4] == b"fLaC" else "is not a WAV file"
        raise ValueError(f"{kind}; convert it, as by: ffmpeg -i {path.name} {path.stem}.wav")
    try:
        (code, channels, rate, _, frame, _), begin, size, streamed = chunks(data)
    except struct.error:
        raise ValueError("holds no sound: it was cut off in its header") from None
    width = frame // max(1, channels)
    if (code, width) not in KINDS or frame != width * channels:
        kind = f"format {code:#x} of WAV, {8 * width} bits"
        raise ValueError(f"is coded in a way that is not read ({kind}); convert it to PCM")
    count = size // frame
    if count == 0:
        raise ValueError("is empty: it has a header but no samples")
    raw = np.frombuffer(data, np.uint8, count * frame, begin).reshape(-1, width)
    if code == 3:
        with np.errstate(over="ignore", invalid="ignore"):  # the result is checked
            x = raw.view(f"<f{width}").astype(np.float32)
    else:
        whole = np.zeros((len(raw), 4), np.uint8)
        whole[:, 4 - width :] = raw ^ 128 if width == 1 else raw  # 8 bits are unsigned in WAV
        x = (whole.view("<i4") / 2**31).astype(np.float32)
    return x.reshape(-1, channels), rate, ["its header has no length"] * streamed


KINDS = {(1, 1), (1, 2), (1, 3), (1, 4), (3, 4), (3, 8)}
"""PCM (1) and float (3), and the bytes of a sample."""


def chunks(data):
    """A WAV file's format, its sound's first byte and size, and whether the header lacks the size.

    A chunk is a name, a size, and so many bytes, padded to an even number.
    """
    at, form, long = 12, None, None
    while True:
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name == b"data":
            break
        if name == b"fmt ":
            form = struct.unpack_from("<HHIIHH", data, at)
            if form[0] == 0xFFFE:  # "extensible": the code begins a GUID
                form = (*struct.unpack_from("<H", data, at + 24), *form[1:])
        elif name == b"ds64":
            (long,) = struct.unpack_from("<Q", data, at + 8)
        at += size + size % 2
    if form is None:
        raise ValueError("says nothing about its format")
    if size == 0xFFFFFFFF and long is not None:
        size = long
    rest = len(data) - at
    # What writes into a pipe cannot return to the header: it says 0, or nearly 2 or 4 GiB.
    streamed = size > rest and size >> 12 in (0x7FFFF, 0xFFFFF)
    if size == 0 < rest:  # or there is no sound, and another chunk follows
        name, more = struct.unpack_from("<4sI", data.ljust(at + 8), at)
        streamed = more + 8 > rest or not all(32 <= letter < 127 for letter in name)
    if size > rest and not streamed:
        raise ValueError(f"claims {size} bytes of sound and has {rest}, so it was cut off")
    return form, at, rest if streamed else size, streamed


def read(path):
    """The recordings in a file, each a list of windows cut as in training; notes."""
    x, rate, notes = wav(path)
    size, kind, hop = FACTS["samples"], FACTS["part"]["kind"], FACTS["hop"]
    if rate != FACTS["sample_rate"]:
        raise ValueError(f"is at {rate} Hz, not at {FACTS['sample_rate']} Hz; resample it")
    if len(x) < size and not FACTS["part"]["pad"]:
        raise ValueError(f"has {len(x)} samples; expected {size} or more: record longer ones")
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.pad(x.mean(1), (0, max(0, size - len(x))))
    if not np.isfinite(x).all():
        raise ValueError("holds NaN or infinity; record it again")
    if hop:
        begins, steady = range(0, len(x) - size + 1, hop), False
    else:
        begins, steady = starts(x, rate, kind, size)
    windows = [x[begin : begin + size] for begin in begins]
    varied = [window for window in windows if np.ptp(window) > 0]
    if kind == "windows" and varied:
        windows = varied
    if len(varied) < len(windows):
        raise ValueError("is constant (silent); record it again")
    if kind in ("first", "whole") and not hop and len(x) > size:
        share = f"{size} of {len(x)} samples ({100 * size / len(x):.2g} %)"
        notes.append(f"only the first {share} were used; cut long files into several")
    notes += [FACTS["no_onset"]] * steady
    return [[window] for window in windows] if hop else [windows], notes


def view(x):
    """What the network reads: of a raw graph the samples themselves, the rest is inside it."""
    if FACTS["view"] == "raw":
        return x
    x, front = x[: FACTS["cut"]].astype(float), FACTS["front"]
    x, later = x - x.mean() if front["centred"] else x, []
    if front["edges"]:  # mean power of all windows, and the power of several in mel bands
        size, edges = front["size"], np.array(front["edges"])
        frames = np.lib.stride_tricks.sliding_window_view(x, size)[:: size // 2]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        power = np.abs(np.fft.rfft(frames * hann, front["points"])) ** 2
        hertz = np.fft.rfftfreq(front["points"], 1 / FACTS["sample_rate"])[:, None]
        sides = (hertz - edges[:-2], edges[2:] - hertz) / np.diff([edges[:-1], edges[1:]])[:, None]
        bands, by = power @ np.clip(sides.min(0), 0, None), front["frames"]
        later = [bands[i : i + by].mean(0) for i in range(0, len(bands), by)]
        x = power.mean(0)[: front["kept"]]
    elif front["points"]:
        x = np.abs(np.fft.rfft(x, front["points"]))[: front["kept"]]
    by = front["averaged"]
    x = np.concatenate([[x[i : i + by].mean()] for i in range(0, len(x), by)] + later)
    x = x[: FACTS["length"]]
    if not front["depth"]:
        return (x - x.min()) / np.ptp(x)
    x = np.maximum(x, x.max() * 10.0 ** -front["depth"]) * front["unit"]
    x = np.log10(x) / front["depth"]
    return x if front["level"] == "kept" else x - x.max() + 1


def warnings(x):
    """Bands of the spectrum against each class in training; runs at the extreme values."""
    power, extreme = np.abs(np.fft.rfft(x)) ** 2, (x == x.min()) | (x == x.max())
    edges = np.linspace(0, len(power), len(FACTS["means"][0]) + 1).astype(int)
    bands = 10 * np.log10(np.add.reduceat(power, edges[:-1]) / power.sum() + 1e-9)
    z = (bands - FACTS["means"]) / FACTS["deviations"]
    clipped = b"\1" * FACTS["run"] in extreme.tobytes()
    novel = np.sqrt(np.mean(z**2, 1)).min() > FACTS["novelty"]
    return [FACTS["novel"]] * bool(novel) + [FACTS["clipped"]] * clipped


def answer(xs, notes):
    """The answer about one recording, of which there are windows, with warnings and notes."""
    seen = [view(x)[None].astype(np.float32) for x in xs]
    p = np.mean([MODEL.run(None, {"input": x})[0][0] for x in seen], 0)
    doubt = 1 - (p[FACTS["normal"]].sum() if FACTS["normal"] else p.max())
    unsure = doubt >= FACTS["limit"] and FACTS["doubtable"][p.argmax()]
    word = "unsure" if unsure else FACTS["answers"][p.argmax()]
    said = [f"\n  warning: {text}" for x in xs for text in warnings(x)]
    said += [f"\n  note: {text}" for text in notes]
    result = f"{word} ({FACTS['class_names'][p.argmax()]}, {p.max():.3f})"
    return result + "".join(dict.fromkeys(said))


def main(paths):
    """Print an answer for each recording; return the exit status."""
    status = 0
    sys.stdout.reconfigure(errors="backslashreplace")  # for names that a terminal cannot show
    for path in paths:
        try:
            recordings, notes = read(Path(path))
        except (OSError, ValueError) as error:
            print(f"{path}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            status = 2
        else:
            for windows in recordings:
                print(f"{path}: {answer(windows, notes)}")
    return status


asked = not sys.argv[1:] or sys.argv[1] in ("-h", "--help")
sys.exit(__doc__ + FACTS["reads"] if asked else main(sys.argv[1:]))
