"""Damage small files of every kind that is read, and see that each ends in data or an HfldError.

    python tests/fuzz.py [--cases 200] [--kind WAV] [--keep FOLDER]    # status 1 if a case fails

Every case follows from its kind and number alone. It runs in a forked process that may work for 2 s
and take 512 MiB more than it began with; a crash of the interpreter or a hang fails one case and
not the program. A reader that runs into the limit and turns that into an error fails, too: it
should have looked first. What fails is kept, with its bytes, under ``--keep``.
"""

import argparse
import io
import json
import os
import random
import re
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.io
import scipy.signal  # before the fork, which is not to be charged with it
import soundfile
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hfld_lite.app.chosen import display_tried, tried
from hfld_lite.app.display import display_table
from hfld_lite.app.runs import FACTS, FORMAT, load_run, preprocessing
from hfld_lite.app.tables import read_baselines, read_history, read_predictions, read_results
from hfld_lite.app.unfinished import BEGUN, begun_run
from hfld_lite.data.readers import read_mat, read_wav_folder
from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import HfldError
from hfld_lite.networks import resnet1d
from hfld_lite.recipes import Network, Recipe

SECONDS, BYTES = 2.0, 512 << 20
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 64)).astype(np.float32)
TINY = Recipe(
    name="fuzz",
    teacher=Network(10, 1 / 16, epochs=1),
    secondary_teachers=(),
    student=Network(10, 1 / 16, dropout=0.1, epochs=1),
    view="spectrum",
    bins=257,
)
TABLES = {
    "history.csv": """role,epoch,cross_entropy,total,learning_rate,validation_accuracy,verdict
teacher,1,0.5,0.5,0.001,0.75,
student,1,0.25,0.25,0.001,1.0,no gain
""",
    "results.csv": """role,network,parameters,macs,size_kb,accuracy,low,high,miss_rate,\
false_alarm_rate,macro_recall,recordings
teacher,a net,100,1000,0.5,1.0,0.5,1.0,0.0,0.0,1.0,2
student,a net,100,1000,0.5,0.5,0.1,0.9,,,0.5,2
""",
    "predictions.csv": """recording,group,class,teacher,teacher_probability,student,\
student_probability
a.wav:0,a,N,N,0.9,D,0.8
b.wav:0,b,D,D,0.9,D,0.8
""",
    "baselines.csv": """# Forest is "better".
baseline,input,validation_accuracy,accuracy,low,high,miss_rate,false_alarm_rate,macro_recall,seconds
forest,64 bands,,1.0,0.5,1.0,0.0,0.0,1.0,0.25
""",
    "auto.csv": """candidate,view,level,learning_rate,steps,score,standard_error,seconds,chosen
a,log-mel,kept,0.003,100,0.5,0.1,1.5,True
b,spectrum,removed,0.003,100,0.25,0.1,1.5,False
""",
}
"""What `hfld train` leaves beside the networks."""

EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 10**12, 2**63]
TOKENS = (
    b'null true -1 0 0.5 1e999 NaN -Infinity 10000000000000 "" "x" [] {} [[[]]] "../../x" "\\ud800"'
)


NAMES = """0.wav 1.wav 2.wav 3.wav ../list/0.wav ../run/run.json /dev/zero /etc/passwd pipe.wav . ..
out/passwd circle circle/a.wav manifest.csv ~ ./0.wav ../wav/bad/b.wav"""
WAYS = ("flip", "byte", "number", "number", "aligned", "aligned", "truncate", "insert", "delete")
WAYS += ("repeat", "splice", "token")


# ---- valid files --------------------------------------------------------------------------------
def mat(**options) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"first": np.arange(3.0), "data": NOISE.astype(float)}, **options)
    return file.getvalue()


def sound(form: str, subtype: str, channels: int = 1) -> bytes:
    file = io.BytesIO()
    signal_ = np.tile(NOISE[0], 5)
    soundfile.write(file, np.stack([signal_] * channels, 1), 8000, subtype=subtype, format=form)
    return file.getvalue()


def prepared(folder: Path) -> Path:
    return Recordings(
        NOISE, np.arange(8) % 2, [f"tile{i}" for i in range(8)], 8000, ("N", "D")
    ).save(folder)


def run_folder(folder: Path) -> Path:
    folder.mkdir()
    TINY.save(folder / "recipe.json")
    for role in ("teacher", "student"):
        save_file(resnet1d(10, 2, 1 / 16, "small").state_dict(), folder / f"{role}.safetensors")
    stage = {"learned_from": "labels", "best_epoch": 1, "seconds": 1.0}
    facts = {
        "format": FORMAT,
        "trust": {},
        "hfld_lite": "1",
        "torch": "2",
        "class_names": ["N", "D"],
    }
    facts |= {"normal_classes": ["N"], "sample_rate": 8000, "samples": 600, "window": None}
    facts |= {"preprocessing": preprocessing(TINY), "source": "noise", "simulated": True}
    facts |= {"data": {"folder": "x", "options": {}}, "fingerprint": "0"}
    (folder / FACTS).write_text(
        json.dumps(facts | {"stages": {"teacher": stage, "student": stage}})
    )
    (folder / "split.json").write_text('{"train": [0, 1], "validation": [2], "test": [3, 4]}')
    save_file({"sketch": torch.zeros(5, 6)}, folder / "recordings.safetensors")
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    begun = {"format": FORMAT, "data": {"folder": "x", "options": {"samples": 9}}, "command": "c"}
    (folder / BEGUN).write_text(json.dumps(begun | {"auto": 2.0, "baselines": ["forest"]}))
    return folder


# ---- kinds --------------------------------------------------------------------------------------
@dataclass
class Kind:
    """Valid files, where a damaged one is put below the folder of all, and what reads it."""

    seeds: list[bytes]
    place: str
    read: Callable[[Path, random.Random], object]
    text: bool = False
    inner: Callable[[bytes, random.Random], bytes] | None = None  # damage below a compression
    examples: st.SearchStrategy | None = field(default=None, repr=False)


def kinds(root: Path) -> dict[str, Kind]:
    """Write into ``root`` what surrounds the damaged files, and describe each kind."""
    (root / "mat").mkdir()
    (root / "mat" / "AD.mat").write_bytes(mat())
    for name, form in (("wav", "WAV"), ("flac", "FLAC")):
        for label in ("bad", "good"):
            (root / name / label).mkdir(parents=True)
        (root / name / "bad" / "b.wav").write_bytes(sound("WAV", "FLOAT"))
        del form
    (root / "list").mkdir()
    for i in range(4):
        (root / "list" / f"{i}.wav").write_bytes(sound("WAV", "PCM_16"))
    os.symlink("/etc", root / "list" / "out")
    os.symlink("circle", root / "list" / "circle")
    os.mkfifo(root / "list" / "pipe.wav")
    run, ready = run_folder(root / "run"), prepared(root / "prepared")
    load_run(run)  # torch imports much more when it is first used: no case is charged with that

    def read_mats(folder: Path, rng: random.Random) -> object:
        return read_mat([folder / "mat/AN.mat", folder / "mat/AD.mat"], samples=rng.choice([2, 64]))

    def read_sounds(folder: Path, rng: random.Random) -> object:
        choice = {"resample": rng.random() < 0.5, "pad": rng.random() < 0.5}
        return read_wav_folder(folder, samples=rng.choice([None, 100, 320]), **choice)

    def read_recipe(path: Path, _: random.Random) -> object:
        recipe = Recipe.load(path)
        with torch.device("meta"):
            for net in recipe.chain.values():
                resnet1d(net.depth, 2, net.width, net.head, net.dropout)
        return recipe.to_json()

    def load(folder: str) -> Callable[[Path, random.Random], object]:
        return lambda root, _: load_run(root / folder)

    def load_prepared(root: Path, _: random.Random) -> object:
        return Recordings.load(root / "prepared", verify=False).summary()

    wavs = [sound("WAV", s) for s in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW")]
    wavs += [sound("WAV", s) for s in ("IMA_ADPCM", "MS_ADPCM", "GSM610")]
    wavs += [sound(form, "PCM_16", 2) for form in ("WAVEX", "RF64", "W64")]
    streamed = sound("WAV", "PCM_16")
    at = streamed.index(b"data") + 4
    wavs += [streamed[:at] + size + streamed[at + 4 :] for size in (bytes(4), b"\xff" * 4)]
    wavs += [b"BW64" + sound("RF64", "PCM_16")[4:]]
    flac = sound("FLAC", "PCM_16")
    unknown = flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]  # 0 samples in STREAMINFO
    listing = b'file,label,group\n0.wav,ok,a\n"1.wav",bad,"b, left"\n2.wav,ok,c\n3.wav,bad,d\n'
    result = {
        ".mat": Kind([mat(), mat(format="4")], "mat/AN.mat", read_mats),
        ".mat compressed": Kind([mat(do_compression=True)], "mat/AN.mat", read_mats, inner=zipped),
        "WAV": Kind(wavs, "wav/good/a.wav", lambda f, rng: read_sounds(f / "wav", rng)),
        "FLAC": Kind(
            [flac, sound("FLAC", "PCM_24", 2), unknown],
            "flac/good/a.flac",
            lambda f, rng: read_sounds(f / "flac", rng),
        ),
        "manifest": Kind(
            [listing, listing.decode().replace(",", ";").encode("utf-16")],
            "list/manifest.csv",
            lambda f, _: read_wav_folder(f / "list"),
            examples=manifests(),
        ),
        "safetensors": Kind(
            [(run / "student.safetensors").read_bytes()], "run/student.safetensors", load("run")
        ),
        "recipe JSON": Kind(
            [(run / "recipe.json").read_bytes()],
            "recipe.json",
            lambda f, rng: read_recipe(f / "recipe.json", rng),
            text=True,
            examples=recipes(),
        ),
        "run.json": Kind([(run / FACTS).read_bytes()], f"run/{FACTS}", load("run"), text=True),
        "split.json": Kind(
            [(run / "split.json").read_bytes()], "run/split.json", load("run"), True
        ),
        "prepared .json": Kind(
            [(ready / "manifest.json").read_bytes()], "prepared/manifest.json", load_prepared, True
        ),
    }

    def load_tables(root: Path, _: random.Random) -> object:
        found = load_run(root / "run")
        return (
            display_table(read_results(found.folder)),
            read_history(found.folder),
            read_predictions(found.folder, found.detector.class_names),
            read_baselines(found.folder),
            display_tried(tried(found.folder)),
        )

    for name in TABLES:
        seed = (run / name).read_bytes()
        result[name] = Kind([seed], f"run/{name}", load_tables, True)
    result["sketch"] = Kind(
        [(run / "recordings.safetensors").read_bytes()],
        "run/recordings.safetensors",
        lambda root, _: load_run(root / "run").sketch,
    )
    result["begun.json"] = Kind(
        [(run / BEGUN).read_bytes()], f"run/{BEGUN}", lambda root, _: begun_run(root / "run"), True
    )
    for name in ("signals", "labels", "groups"):
        seed = (ready / f"{name}.npy").read_bytes()
        result[f"{name}.npy"] = Kind([seed], f"prepared/{name}.npy", load_prepared)
    return result


def zipped(data: bytes, rng: random.Random) -> bytes:
    """Damage what the compressed elements of a .mat file hold, and compress it again."""
    result, at = data[:128], 128
    while at < len(data):
        size = struct.unpack_from("<I", data, at + 4)[0]
        content = mutate(zlib.decompress(data[at + 8 : at + 8 + size]), rng)
        packed = zlib.compress(content)
        result += struct.pack("<II", 15, len(packed)) + packed
        at += 8 + size
    return result


# ---- damage -------------------------------------------------------------------------------------
def mutate(data: bytes, rng: random.Random, other: bytes = b"", text: bool = False) -> bytes:
    """Damage bytes in one to four places, most of them near the beginning."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = token(data, rng) if text and rng.random() < 0.8 else damage(data, rng, other)
    return data


def damage(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Damage bytes in one place."""
    near = rng.choice([16, 64, 256, len(data)])
    at, size = rng.randrange(max(1, min(near, len(data)))), rng.choice([1, 2, 4, 8, 40])
    number, width = rng.choice(EXTREMES) + rng.choice([-1, 0, 0, 1]), rng.choice([1, 2, 4, 8])
    number = (number % 256**width).to_bytes(width, rng.choice(["little", "big"]))
    before, after = data[:at], data[at:]
    way = rng.choice(WAYS)
    if way == "flip" and after:
        return before + bytes([after[0] ^ 1 << rng.randrange(8)]) + after[1:]
    if way == "token":
        return token(data, rng)
    if way == "aligned":
        before, after, way = data[: at & ~3], data[at & ~3 :], "number"
    return before + {
        "byte": rng.randbytes(1) + after[1:],
        "number": number + after[width:],
        "truncate": after[: rng.randrange(len(after) + 1)],
        "insert": rng.randbytes(size) + after,
        "delete": after[size:],
        "repeat": after[:size] * rng.choice([2, 3, 50]) + after,
        "splice": other[rng.randrange(len(other) or 1) :],
    }.get(way, after)


def token(data: bytes, rng: random.Random) -> bytes:
    """Put another JSON value, or digit, in the place of one that stands in text."""
    places = list(re.finditer(rb'"[^"]*"|-?\d[\d.e+-]*|null|true|false|\[|\{', data[:4000]))
    if not places:
        return data
    found = rng.choice(places)
    new = rng.choice([*TOKENS.split(), b"[" * 5000, b"9" * 5000, b"%d" % rng.choice(EXTREMES)])
    if rng.random() < 0.2:
        new = rng.choice(places)[0]
    return data[: found.start()] + new + data[found.end() :]


# ---- structures ---------------------------------------------------------------------------------
def values() -> st.SearchStrategy:
    leaf = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from([0, -1, 10**12, 10**400, "../x", "spectrum", "published"]),
    )  # fmt: skip
    return st.recursive(
        leaf,
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3),
    )


def recipes() -> st.SearchStrategy:
    """A recipe in which up to three entries, of it or of its networks, have any value at all."""
    whole = json.loads(TINY.replace(secondary_teachers=(TINY.student,)).to_json())

    def entries(known: dict) -> st.SearchStrategy:
        return st.dictionaries(
            st.sampled_from([*known]) | st.text(max_size=4), values(), max_size=3
        )

    network = entries(whole["student"]).map(lambda change: whole["student"] | change)
    varied = st.fixed_dictionaries({}, optional={"student": network, "teacher": network})
    augmented = entries({"noise": 0, "shift": 0, "gain": 0, "frequency": 0})
    varied = st.tuples(varied, st.none() | augmented, entries(whole)).map(
        lambda parts: whole | parts[0] | {"augmentation": parts[1]} | parts[2]
    )
    return varied.map(lambda value: json.dumps(value, ensure_ascii=True).encode())


def manifests() -> st.SearchStrategy:
    """Rows with names of files that are there, that lead away, or that are no names."""
    name = st.sampled_from([*NAMES.split(), "nul\0.wav"]) | st.text(max_size=300)
    cell = st.one_of(name, st.sampled_from(["ok", "bad"]), st.text(max_size=4))
    quoted = cell.map(lambda text: '"' + text.replace('"', '""') + '"')
    row = st.lists(quoted | cell, min_size=1, max_size=4).map(",".join)
    good = name.flatmap(lambda n: st.sampled_from([f"{n},ok,a", f"{n},bad,b"]))
    head = st.sampled_from(["file,label,group", "file,label", "label,file", "group,file,label"])
    lines = st.tuples(head | row, st.lists(good | row, max_size=5)).map(lambda x: [x[0], *x[1]])
    return lines.map(lambda found: "\n".join(found).encode("utf-8", "surrogatepass"))


# ---- one case -----------------------------------------------------------------------------------
class TooSlow(BaseException):
    """Not an Exception, so that no reader can take it for damage."""


def outcome(read: Callable[[], object]) -> dict:
    """What reading ended in: "data", "refused", or what is wrong with its end."""

    def stop(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory("VmHWM"), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of work: the machine may be busy elsewhere
    signal.setitimer(signal.ITIMER_REAL, 4 * SECONDS)  # of waiting, for a pipe, say
    try:
        data = read()
        end = "data" if data is not None else "nothing"
        str(data).encode()
    except HfldError as error:
        end = "refused"
        str(error).encode()
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError) or "allocate" in str(cause):
                end = f"reserved too much before it looked: {error}"
            cause = cause.__cause__ or cause.__context__
    except TooSlow:
        end = "too slow:\n" + traceback.format_exc()
    except BaseException:
        end = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds, peak = time.process_time() - began, memory("VmHWM") - before
    if end in ("data", "refused") and (seconds > SECONDS or peak > BYTES):
        end = f"took {seconds:.1f} s and {peak >> 20} MiB"
    return {"end": end, "seconds": seconds, "peak": peak}


def memory(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) << 10


def cases(name: str, kind: Kind, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    """The damaged files of a kind; every third comes from hypothesis where that knows the kind."""
    drawn: list[bytes] = []
    if kind.examples is not None:
        count = -(-last // 3)

        @settings(
            max_examples=count, derandomize=True, database=None, deadline=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(kind.examples)
        def draw(example: bytes) -> None:
            drawn.append(example)

        draw()
    for number in range(first, last):
        rng = random.Random(f"{name} {number}")
        seed, other = rng.choice(kind.seeds), rng.choice(kind.seeds)
        if drawn and number % 3 == 0:
            yield number, drawn[number // 3 % len(drawn)]
        elif kind.inner and rng.random() < 0.6:
            yield number, kind.inner(seed, rng)
        else:
            yield number, mutate(seed, rng, other, kind.text or rng.random() < 0.2)


def child(name: str, kind: Kind, root: Path, first: int, last: int, pipe: int) -> None:
    """Run cases and write a line before and after each."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    damaged = list(cases(name, kind, first, last))
    limit = memory("VmSize") + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number, data in damaged:
        (root / kind.place).write_bytes(data)
        os.write(pipe, b'{"begun": %d}\n' % number)
        rng = random.Random(number)
        result = outcome(lambda rng=rng: kind.read(root, rng))
        os.write(pipe, json.dumps({"number": number, **result}).encode() + b"\n")


def fuzz(name: str, kind: Kind, root: Path, count: int, keep: Path) -> tuple[dict, list[str]]:
    """Run the cases of a kind in children; a row of the table, and what failed."""
    ends: Counter[str] = Counter()
    failed, first, slowest, peak = [], 0, 0.0, 0
    whole = (root / kind.place).read_bytes() if (root / kind.place).exists() else None

    def fail(number: int, what: str) -> None:
        keep.mkdir(parents=True, exist_ok=True)
        place = keep / f"{name.replace(' ', '_').strip('.')}-{number}{Path(kind.place).suffix}"
        place.write_bytes((root / kind.place).read_bytes())
        failed.append(f"{name}, case {number}, kept as {place}: {what}")

    while first < count:
        reading, writing = os.pipe()
        process = os.fork()
        if not process:
            os.close(reading)
            try:
                child(name, kind, root, first, count, writing)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writing)
        rest, begun = b"", None
        while True:
            ready, _, _ = select.select(
                [reading], [], [], 10 * SECONDS if begun is not None else 99
            )
            if not ready:
                os.kill(process, signal.SIGKILL)
                break
            if not (block := os.read(reading, 1 << 16)):
                break
            *lines, rest = (rest + block).split(b"\n")
            for line in map(json.loads, lines):
                begun = line.get("begun")
                if begun is not None:
                    continue
                first = line["number"] + 1
                slowest, peak = max(slowest, line["seconds"]), max(peak, line["peak"])
                ends[line["end"]] += 1
                if line["end"] not in ("data", "refused"):
                    fail(line["number"], line["end"])
        os.close(reading)
        _, status = os.waitpid(process, 0)
        if begun is not None:
            fail(begun, f"the process hung or crashed (status {status})")
            first = begun + 1
        elif status:
            sys.exit(f"{name}: the program itself failed; its error stands above")
    if whole is not None:
        (root / kind.place).write_bytes(whole)
    row = {"kind": name, "cases": count, "data": ends["data"], "refused": ends["refused"]}
    return row | {"failed": len(failed), "slowest": slowest, "peak": peak}, failed


def main() -> None:
    """Run what was asked for and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200, help="of all kinds together")
    parser.add_argument("--kind", help="one kind only")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="for what fails")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        known = kinds(root)
        names = [options.kind] if options.kind else list(known)
        found, total = [], Counter()
        print(
            f"{'kind':<16}{'cases':>7}{'data':>7}{'refused':>9}{'failed':>8}{'slowest':>11}{'peak':>9}"
        )
        for i, name in enumerate(names):
            count = options.cases * (i + 1) // len(names) - options.cases * i // len(names)
            if not count:
                continue
            for valid in known[name].seeds:
                (root / known[name].place).write_bytes(valid)
                end = outcome(lambda n=name: known[n].read(root, random.Random(3)))["end"]
                if end != "data":
                    sys.exit(f"{name}: a file that is whole ends in: {end}")
            row, failed = fuzz(name, known[name], root, count, options.keep)
            found += failed
            total.update({key: row[key] for key in ("cases", "data", "refused", "failed")})
            print(
                f"{name:<16}{row['cases']:>7}{row['data']:>7}{row['refused']:>9}{row['failed']:>8}"
                f"{row['slowest']:>9.3f} s{row['peak'] / 2**20:>5.0f} MiB",
                flush=True,
            )
    print(f"{'all':<16}" + "".join(f"{total[k]:>{w}}" for k, w in
          (("cases", 7), ("data", 7), ("refused", 9), ("failed", 8))))  # fmt: skip
    print("\n".join(found))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
