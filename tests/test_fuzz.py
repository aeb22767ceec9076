"""Damaged files end in data or an HfldError, soon and in little memory; `make soak` tries more."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import fuzz
import pytest

CASES = int(os.environ.get("HFLD_FUZZ_CASES", "200"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
def test_every_damaged_file_ends_in_data_or_an_error_of_ours(tmp_path):
    program = [sys.executable, str(Path(__file__).parent / "fuzz.py"), "--cases", str(CASES)]
    keep = ["--keep", str(tmp_path / "kept")]
    done = subprocess.run([*program, *keep], capture_output=True, text=True, check=False)
    print("\n" + done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    total = next(line for line in done.stdout.splitlines() if line.startswith("all")).split()
    cases, data, refused, failed = map(int, total[1:])
    assert (cases, failed) == (CASES, 0)
    assert data + refused == CASES
    assert min(data, refused) > 0.02 * CASES  # damage that is never, or always, seen finds nothing


def hoard():
    raise fuzz.HfldError("refused") from MemoryError()


def hang():
    while True:
        pass


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
class TestTheFuzzerItself:
    """What it must not take for a good end."""

    @pytest.mark.parametrize(
        ("read", "words"),
        [
            (lambda: 1 / 0, "ZeroDivisionError"),
            (lambda: sys.exit(3), "SystemExit"),
            (lambda: None, "nothing"),
            (lambda: "\ud800", "UnicodeEncodeError"),
            (hoard, "reserved too much"),
            (hang, "too slow"),
            (lambda: time.sleep(60), "too slow"),
            (lambda: len(b"x" * (600 << 20)), r"took .* (59|60)\d MiB"),
        ],
    )
    def test_bad_ends_are_told(self, monkeypatch, read, words):
        if words == "too slow":
            monkeypatch.setattr(fuzz, "SECONDS", 0.5)

        assert re.search(words, fuzz.outcome(read)["end"])

    def test_good_ends(self):
        def refuse():
            raise fuzz.HfldError("no")

        assert fuzz.outcome(refuse)["end"] == "refused"
        assert fuzz.outcome(lambda: [1])["end"] == "data"

    @pytest.mark.parametrize("die", [lambda: os.kill(os.getpid(), 9), lambda: os._exit(0)])
    def test_a_crash_fails_one_case_and_the_rest_are_run(self, tmp_path, die):
        def read(root, _):
            return die() if (root / "file").read_bytes() == cases[1] else "data"

        kind = fuzz.Kind([bytes(range(100))], "file", read)
        cases = [data for _, data in fuzz.cases("x", kind, 0, 4)]
        row, failed = fuzz.fuzz("x", kind, tmp_path, 4, tmp_path / "kept")
        assert (row["data"], row["failed"]) == (3, 1)
        assert "x, case 1" in failed[0]
        assert "crashed" in failed[0]
        assert [file.read_bytes() for file in (tmp_path / "kept").iterdir()] == [cases[1]]

    def test_the_same_number_gives_the_same_bytes(self, tmp_path):
        kind = fuzz.Kind([bytes(range(100))], "file", lambda *_: 1, examples=fuzz.recipes())
        assert list(fuzz.cases("x", kind, 0, 9)) == list(fuzz.cases("x", kind, 0, 9))
