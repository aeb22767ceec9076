"""Classify recordings: python predict.py impact.wav ... (needs numpy and onnxruntime only)."""

from __future__ import annotations

import json
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime

MODEL = onnxruntime.InferenceSession(str(Path(__file__).with_name("MODEL_FILE")))
FACTS = json.loads(MODEL.get_modelmeta().custom_metadata_map["hfld_lite"])


starts = ...  # here the library puts the functions that it cuts with


def read(path):
    """Recordings of one channel in [-1, 1), each a list of windows, cut as in training."""
    with wave.open(path) as file:
        rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
        data = np.frombuffer(file.readframes(file.getnframes()), np.uint8).reshape(-1, width)
    if rate != FACTS["sample_rate"]:
        raise ValueError(f"is at {rate} Hz, not at {FACTS['sample_rate']} Hz; resample it")
    whole = np.zeros((len(data), 4), np.uint8)
    whole[:, 4 - width :] = data ^ 128 if width == 1 else data  # 8 bits are unsigned in WAV
    signal = (whole.view("<i4") / 2**31).reshape(-1, channels).mean(1).astype(np.float32)
    size, kind = FACTS["samples"], FACTS["part"]["kind"]
    if FACTS["part"]["pad"]:
        signal = np.pad(signal, (0, max(0, size - len(signal))))
    begins = range(0, len(signal) - size + 1, FACTS["hop"] or 10**12)
    if begins and not FACTS["hop"]:
        begins, _ = starts(signal, rate, kind, size)
    windows = [signal[begin : begin + size] for begin in begins]
    varied = [x for x in windows if np.ptp(x) > 0]
    windows = varied if kind == "windows" and varied else windows
    if not windows or len(varied) < len(windows):
        raise ValueError(f"is silent, or shorter than {size} samples")
    return [[x] for x in windows] if FACTS["hop"] else [windows]


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


for path in sys.argv[1:] or sys.exit(__doc__):
    try:
        for xs in read(path):
            seen = [view(x)[None].astype(np.float32) for x in xs]
            p = np.mean([MODEL.run(None, {"input": x})[0][0] for x in seen], 0)
            doubt = 1 - (p[FACTS["normal"]].sum() if FACTS["normal"] else p.max())
            unsure = doubt >= FACTS["limit"] and FACTS["doubtable"][p.argmax()]
            answer = "unsure" if unsure else FACTS["answers"][p.argmax()]
            print(f"{path}: {answer} ({FACTS['class_names'][p.argmax()]}, {p.max():.3f})")
            said = [text for x in xs for text in warnings(x)]
            print("".join(f"  warning: {text}\n" for text in dict.fromkeys(said)), end="")
    except (OSError, EOFError, ValueError, wave.Error) as error:
        sys.exit(f"{path}: {error}")
