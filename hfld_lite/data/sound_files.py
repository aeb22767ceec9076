"""WAV and FLAC: one sound file."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from hfld_lite.data.readers import reader
from hfld_lite.errors import DataError
from hfld_lite.storage.files import regular_size, unfolded

_RIFF, _RF64, _W64, _FLAC = (b"RIFF", b"RIFX"), b"RF64", b"riff\x2e\x91\xcf\x11", b"fLaC"
_MOST_CHUNKS = 1000


def _header(path: Path) -> tuple[int, int, int]:
    """Return a sound file's rate in Hz, its samples and its channels."""
    import soundfile  # here, since `import hfld_lite` should not wait for libsndfile

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
            f"is damaged or not a sound file ({error})",
            expected="a WAV or FLAC file",
            mend="copy it again",
        ) from error
    if info.frames == 0:
        raise DataError(path, "is empty: it has a header but no samples", mend="record it again")
    return info.samplerate, info.frames, info.channels


def _check_container(path: Path, size: int) -> None:
    """Raise a ValueError unless the file begins as WAV or FLAC, and a WAV holds what it claims.

    libsndfile reads two dozen other formats, which are not wanted here, and silently shortens a
    sound that ends too early. WAV: "RIFF", "RIFX" (big-endian) or "RF64" (EBU Tech 3306: sizes in
    the chunk "ds64"), a size, "WAVE", then chunks of name, size and content, padded to two bytes.
    Sony's Wave64 has GUIDs for names, 64-bit sizes that include the chunk's head, and pads to 8.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head.startswith(_FLAC):
            return
        wave64, big = head.startswith(_W64), head.startswith(b"RIFX")
        if not wave64 and not (head[:4] in (*_RIFF, _RF64) and head[8:] == b"WAVE"):
            raise ValueError("it does not begin like WAV or FLAC")
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


@reader(".wav", ".flac", header=_header, units="full scale")
def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Read a WAV or FLAC file as one channel: float32 ``(samples,)``, and its rate in Hz."""
    import soundfile

    rate, frames, _ = _header(path)
    try:
        data, _ = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, MemoryError) as error:
        raise DataError(path, f"is damaged ({error})", mend="copy it again") from error
    if len(data) != frames:
        raise DataError(path, f"ends after {len(data)} samples", expected=f"{frames}, as it says")
    return (data.mean(axis=1) if data.shape[1] > 1 else data[:, 0]), rate
