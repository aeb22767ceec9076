"""WAV and FLAC: one sound file."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from hfld_lite.data.plausibility import mixed
from hfld_lite.data.readers import reader
from hfld_lite.errors import DataError
from hfld_lite.storage.files import regular_size, stand_in, unfolded

_RIFF, _RF64, _W64 = (b"RIFF", b"RIFX"), (b"RF64", b"BW64"), b"riff\x2e\x91\xcf\x11"
_FLAC = b"fLaC"
_MOST_CHUNKS = 1000
_BLOCK = 1 << 16  # samples
_WANTED = "a WAV or FLAC file"

# What programs write that cannot return to the header: 0, the largest number, or one close below 2
# or 4 GiB (SoX and espeak 4 KiB less, arecord 256 bytes; others subtract the header's length).
_UNKNOWN = (range(2**31 - 5000, 2**31), range(2**32 - 5000, 2**32), range(2**64 - 1, 2**64))
_STREAMED = "without a length in the header, so read to the end"

# The codes of WAV's 'fmt ' chunk that libsndfile decodes: PCM, ADPCM, float, laws, GSM, G.721.
_DECODED = {1, 2, 3, 6, 7, 0x11, 0x31, 0x40, 0xFFFE}

_OTHERS = {
    b"ID3": "an MP3 file",
    b"\xff\xfb": "an MP3 file",
    b"\xff\xf3": "an MP3 file",
    b"\xff\xf1": "an AAC file",
    b"OggS": "an Ogg file",
    b"FORM": "an AIFF file",
    b".snd": "an AU file",
    b"caff": "a CAF file",
    b"\x1aE\xdf\xa3": "a WebM file",
}


class _Found(NamedTuple):
    """What a sound file's header says, and which of its bytes are read as others."""

    rate: int
    frames: int
    channels: int
    streamed: bool
    changes: dict[int, bytes]


class _Mended(io.FileIO):
    """A file of which some bytes are read as if they were others."""

    def __init__(self, path: Path, changes: dict[int, bytes]) -> None:
        super().__init__(path)
        self._changes = changes

    def readinto(self, buffer: object) -> int:
        at, view = self.tell(), memoryview(buffer).cast("B")
        count = super().readinto(view)
        for place, new in self._changes.items():
            for i, byte in enumerate(new, place - at):
                if 0 <= i < count:
                    view[i] = byte
        return count


@contextmanager
def _opened(path: Path, streamed: bool, changes: dict[int, bytes]) -> Iterator:
    import soundfile  # here, since `import hfld_lite` should not wait for libsndfile

    class Stream(soundfile.SoundFile):
        def seekable(self) -> bool:  # soundfile seeks after each read, which fails at the end
            return False

    kind = Stream if streamed else soundfile.SoundFile
    if not changes:
        with kind(path) as sound:
            yield sound
    else:
        with _Mended(path, changes) as file, kind(file) as sound:
            yield sound


def _blocks(sound: object, most: int) -> Iterator[np.ndarray]:
    """Read a sound of unknown length: float32 ``(samples, channels)``, again and again."""
    count = 0
    while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
        count += block.size
        if count > most:
            raise ValueError(f"it holds more than {most} samples")
        yield block


def _header(path: Path) -> tuple:
    """Return a sound file's rate in Hz, samples, channels, and a note if its length is unknown."""
    found = _look(path)
    return (*found[:3], _STREAMED) if found.streamed else found[:3]


def _look(path: Path) -> _Found:
    import soundfile

    code = 1
    try:
        if (size := regular_size(path)) == 0:
            raise DataError(path, "is empty", expected=_WANTED, mend="copy it again")
        with path.open("rb") as file:
            head = file.read(1024)
            _check_kind(path, head)
            streamed, changes, code = False, {}, 1
            if not head.startswith(_FLAC):
                streamed, changes, code = _check_container(file, size)
        with _opened(path, streamed, changes) as sound:
            rate, frames, channels = sound.samplerate, sound.frames, sound.channels
        if frames == 2**63 - 1:  # FLAC's 0 samples, which means that the length is unknown
            with _opened(path, True, {}) as sound:
                frames, streamed = sum(map(len, _blocks(sound, unfolded(size)))), True
        if frames * channels > unfolded(size):
            raise ValueError(
                f"it claims {frames} samples in {channels} channels and has {size} bytes"
            )
    except OSError as error:
        found = f"cannot be read ({error.strerror or error})"
        raise DataError(path, found, expected=_WANTED) from error
    except (soundfile.SoundFileError, ValueError) as error:
        found, mend = f"is damaged or not a sound file ({_said(error)})", "copy it again"
        if code not in _DECODED:
            found = f"codes its sound in a way that cannot be read (format {code:#06x} of WAV)"
            mend = "convert it to PCM"
        if isinstance(error, UnicodeEncodeError):
            found, mend = "has a name that is not text in UTF-8", "rename it"
        raise DataError(path, found, expected=_WANTED, mend=mend) from error
    if frames == 0:
        raise DataError(path, "is empty: it has a header but no samples", mend="record it again")
    return _Found(rate, frames, channels, streamed, changes)


def _said(error: Exception) -> str:
    return getattr(error, "error_string", str(error)).rstrip(".")


def _check_kind(path: Path, head: bytes) -> None:
    """Raise a DataError that says what a file is, unless it begins as WAV or FLAC.

    libsndfile reads two dozen other formats, which are not wanted here.
    """
    if head.startswith((_FLAC, _W64)) or (head[:4] in _RIFF + _RF64 and head[8:12] == b"WAVE"):
        return
    what, mend = stand_in(head) or (None, "convert it to WAV or FLAC")
    for start, name in _OTHERS.items():
        if head.startswith(start):
            what = f"is {name} under another name"
    if head[4:8] == b"ftyp":
        what = "is an MP4 or M4A file under another name"
    elif what is None and head.isascii() and "".join(head.decode().split()).isprintable():
        what, mend = f"is a text, {head[:40].decode()!r}", "take it out or download it again"
    elif what is None:
        what = f"is damaged or not a sound file (it begins with {head[:4]!r})"
        mend = "copy it again, or take it out if it is none"
    raise DataError(path, what, expected=_WANTED, mend=mend)


def _check_container(file: BinaryIO, size: int) -> tuple[bool, dict[int, bytes], int]:
    """Find a WAV's chunk of sound, and raise a ValueError unless it holds what it claims.

    libsndfile silently shortens a sound that ends too early. WAV: "RIFF", "RIFX" (big-endian),
    "RF64" or "BW64" (EBU Tech 3306, ITU-R BS.2088: sizes in the chunk "ds64"), a size, "WAVE", then
    chunks of name, size and content, padded to two bytes. Sony's Wave64 has GUIDs for names, 64-bit
    sizes that include the chunk's head, and pads to 8.

    Returns:
        Whether the length is unknown, so that all that follows is sound; the bytes that libsndfile
        must read differently, by their place; and the code of the sound's format.
    """
    file.seek(0)
    head = file.read(12)
    wave64, big, code = head.startswith(_W64), head.startswith(b"RIFX"), 1
    form = "<16sQ" if wave64 else ">4sI" if big else "<4sI"
    width, pad = struct.calcsize(form), 8 if wave64 else 2
    changes = {0: b"RF64"} if head.startswith(b"BW64") else {}  # libsndfile knows that name only
    file.seek(40 if wave64 else 12)
    long_size = None
    for _ in range(_MOST_CHUNKS):
        if len(chunk := file.read(width)) < width:
            raise ValueError("it holds no sound: the chunk 'data' is missing")
        name, claimed = struct.unpack(form, chunk)
        claimed -= width if wave64 else 0
        place, here = file.tell() - 4, file.tell()
        if name[:4] == b"fmt " and len(content := file.read(2)) == 2:
            code = struct.unpack(form[0] + "H", content)[0]
        elif name == b"ds64" and len(content := file.read(16)) == 16:
            long_place, long_size = here + 8, struct.unpack("<Q", content[8:])[0]
        file.seek(here)
        if name[:4] == b"data":
            rest, size_form = size - here, form[0] + "I"
            if claimed == 0xFFFFFFFF and head[:4] in _RF64 and long_size is not None:
                claimed, place, size_form = long_size, long_place, "<Q"
            unknown = claimed > rest and any(claimed in numbers for numbers in _UNKNOWN)
            unknown |= claimed == 0 and rest > 0 and not _is_chunk(file, form, rest)
            if unknown and not wave64 and rest < 2**32:
                return True, changes | {place: struct.pack(size_form, rest)}, code
            if not 0 <= claimed <= rest:
                raise ValueError(
                    f"it claims {claimed} bytes of sound and has {rest}, so it was cut off or its "
                    "writing was never finished"
                )
            return False, changes, code
        if not 0 <= claimed <= size:
            raise ValueError(f"a chunk claims {claimed} bytes, and the file has {size}")
        file.seek(claimed + -claimed % pad, os.SEEK_CUR)
    raise ValueError(f"no sound is found within {_MOST_CHUNKS} chunks")


def _is_chunk(file: BinaryIO, form: str, rest: int) -> bool:
    """Whether a chunk follows, and not sound."""
    if len(chunk := file.read(struct.calcsize(form))) < struct.calcsize(form):
        return False
    name, claimed = struct.unpack(form, chunk)
    return name.isascii() and name.decode().isprintable() and claimed + len(chunk) <= rest


@reader(".wav", ".flac", header=_header, units="full scale")
def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Read a WAV or FLAC file as one channel: float32 ``(samples,)``, and its rate in Hz."""
    import soundfile

    rate, frames, channels, streamed, changes = _look(path)
    try:
        with _opened(path, streamed, changes) as sound:
            if streamed:
                data = np.concatenate([*_blocks(sound, frames * channels)])
            else:
                data = sound.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, MemoryError) as error:
        raise DataError(path, f"is damaged ({_said(error)})", mend="copy it again") from error
    if len(data) != frames:
        raise DataError(path, f"ends after {len(data)} samples", expected=f"{frames}, as it says")
    return mixed(data, path), rate
