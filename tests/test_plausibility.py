"""What looks wrong in data: each finding with one example that brings it and one that does not."""

import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hfld_lite.data import plausibility
from hfld_lite.data.parts import Part
from hfld_lite.data.plausibility import (
    cancels,
    equal_rows,
    findings,
    reading_findings,
    separations,
)
from hfld_lite.data.readers import read_cuts, read_folder
from hfld_lite.data.recordings import Recordings
from hfld_lite.errors import DataError

RATE = 16_000


def noise(n: int = 24, samples: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, samples)).astype(np.float32)


def made(signals: np.ndarray, labels=None, names=("good", "bad"), **fields) -> Recordings:
    count = len(signals)
    labels = np.arange(count) % len(names) if labels is None else labels
    origins = [f"{names[label]}/{row:02d}.wav:0" for row, label in enumerate(labels)]
    given = {"groups": origins, "origins": origins, "units": "full scale"}
    return Recordings(signals, np.asarray(labels), sample_rate=RATE, class_names=names,
                      **(given | fields))  # fmt: skip


def only(signals: np.ndarray, labels=None, names=("good", "bad"), **fields) -> str:
    """The one finding."""
    found = findings(made(signals, labels, names, **fields))
    assert len(found) == 1, found
    return found[0]


def sine(frequency: float, amplitude: float, samples: int = 4000) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(samples) / RATE + 0.3)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 60),
    st.integers(32, 300),
    st.integers(2, 5),
    st.sampled_from([1e-6, 1.0, 3000.0]),
    st.booleans(),
)
def test_noise_is_plausible(seed, count, samples, classes, scale, whole):
    rng = np.random.default_rng(seed)
    signals = rng.standard_normal((count, samples)) * rng.uniform(0.3, 1, (count, 1)) * scale
    signals = np.round(signals * 1000 / scale) if whole else signals
    labels = rng.permutation(np.arange(count) % classes)
    recordings = made(signals, labels, tuple("abcde"[:classes]))
    assert findings(recordings) == ()
    assert "note:" not in recordings.summary()


class TestOffset:
    def test_it_is_counted_named_and_said_that_it_is_removed(self):
        signals = noise()
        signals[[2, 5, 8, 11]] += 20
        text = only(signals)
        assert text.startswith(
            "4 of 24 recordings have a constant offset (good/02.wav, bad/05.wav, good/08.wav, …): "
        )
        assert "times the RMS of the rest; the mean is removed" in text

    def test_a_small_one_is_usual(self):
        assert findings(made(noise() + 2)) == ()

    def test_one_recording(self):
        signals = noise()
        signals[3] -= 20
        assert only(signals).startswith("1 of 24 recordings has a constant offset (bad/03.wav): ")


class TestClipped:
    @pytest.mark.parametrize("scale", [1, 32767])
    @pytest.mark.parametrize("frequency", [20, 700])
    def test_a_wave_that_is_cut_off(self, scale, frequency):
        rng = np.random.default_rng(1)
        rows = [sine(frequency, 1) + 0.001 * rng.standard_normal(4000) for _ in range(24)]
        signals = np.round(32767 * np.clip(rows, -2, 0.8)) / 32767 * scale
        signals[6:] = np.round(32767 * np.stack(rows[6:])) / 32767 * scale
        assert only(signals).startswith("6 of 24 recordings are clipped (good/00.wav, bad/01.wav")

    def test_the_peak_of_a_slow_wave_in_whole_numbers_is_no_clipping(self):
        rows = [np.round(sine(15 + row / 10, 20_000)) for row in range(24)]
        assert plausibility.longest_run(np.array(rows)).max() >= plausibility.CLIPPED_RUN
        assert findings(made(np.array(rows))) == ()

    def test_few_levels_are_no_clipping(self):
        pulses = np.random.default_rng(0).integers(0, 2, (24, 400)).astype(np.float32)
        assert findings(made(pulses)) == ()

    def test_appended_zeros_are_no_clipping(self):
        signals = np.abs(noise())
        signals[:, 300:] = 0
        assert findings(made(signals)) == ()


class TestSilent:
    def test_nearly(self):
        signals = noise()
        signals[[1, 2]] *= 1e-4
        text = only(signals)
        assert text.startswith("2 of 24 recordings are nearly silent (bad/01.wav, good/02.wav): ")

    def test_quiet_is_not_silent(self):
        signals = noise()
        signals[[1, 2]] *= 1e-2
        assert findings(made(signals)) == ()

    @pytest.mark.parametrize("unit", [1e-30, 1e30])
    def test_units_that_are_very_large_or_small_are_not_silent(self, unit):
        assert findings(made(noise() * np.float32(unit))) == ()

    def test_what_rounding_leaves_of_a_constant(self):
        signals = np.full((24, 400), 0.7, np.float32)
        signals[np.arange(24), np.arange(24)] = np.nextafter(np.float32(0.7), np.float32(1))
        assert only(signals).startswith("24 of 24 recordings are nearly silent")


class TestEqual:
    def test_within_a_class(self):
        signals = noise()
        signals[4] = signals[2]
        text = only(signals)
        assert text == (
            "2 recordings equal another one, sample for sample, of the same class; the split keeps "
            "them together; delete all but one (good/02.wav = good/04.wav)."
        )

    def test_across_classes(self):
        signals = noise()
        signals[5] = signals[7] = signals[2]
        text = only(signals)
        assert "3 recordings equal another one, sample for sample, of another class" in text
        assert "a label is wrong" in text
        assert "(good/02.wav = bad/05.wav)" in text

    def test_rows_are_named_where_files_have_several(self):
        signals = noise()
        signals[4] = signals[2]
        origins = [f"tiles.mat:{row}" for row in range(24)]
        assert "(tiles.mat:2 = tiles.mat:4)" in only(signals, origins=origins)

    def test_equal_in_part_only(self):
        signals = noise()
        signals[4, 1:] = signals[2, 1:]
        assert findings(made(signals)) == ()

    @pytest.mark.parametrize("samples", [2, 3, 15, 16, 17, 400])
    def test_sets_of_rows(self, samples):
        signals = noise(9, samples)
        signals[[3, 8]], signals[6], signals[[1, 2]] = signals[0], signals[5], 0
        assert [rows.tolist() for rows in equal_rows(signals)] == [[0, 3, 8], [5, 6]]

    def test_a_memory_map(self, tmp_path):
        signals = noise()
        signals[4] = signals[2]
        made(signals).save(tmp_path / "data")
        assert "good/02.wav = good/04.wav" in Recordings.load(tmp_path / "data").summary()


class TestLevel:
    def test_two_classes(self):
        signals = noise()
        signals[1::2] *= 0.1
        text = only(signals)
        assert text.startswith("The level alone tells bad from good (threshold -1")
        assert "dB re full scale, balanced accuracy 100%)" in text
        assert "same microphone and gain" in text

    @pytest.mark.parametrize(
        ("levels", "words"),
        [
            ([1, 1, 1, 9], r"tells a, b and c from d \(threshold [-0-9.]+ dB re full scale, bal"),
            ([9, 1, 1, 1, 1], r"tells 4 classes \(b, c, d, …\) from a \("),
            ([1, 9, 81, 500], r"tells a from b, c and d \(.*; 2 other thresholds separate"),
        ],
    )
    def test_several_classes(self, levels, words):
        signals = noise(12 * len(levels)) * np.tile(levels, 12)[:, None]
        assert re.search(words, only(signals, names=tuple("abcde"[: len(levels)])))

    def test_levels_that_overlap(self):
        signals = noise()
        signals[1::2] *= 0.1
        signals[1::6] *= 10
        assert findings(made(signals)) == ()

    def test_few_recordings_or_groups_are_apart_by_chance(self):
        signals = noise(14)
        signals[1::2] *= 0.1
        assert findings(made(signals)) == ()
        signals = noise()
        signals[1::2] *= 0.1
        groups = [f"{row % 2}-{row // 6}" for row in range(24)]
        assert findings(made(signals, groups=groups)) == ()

    def test_ties_are_not_split(self):
        values = np.array([1.0] * 20 + [2.0] * 20)
        assert separations(np.ones(40), [0] * 20 + [1] * 20, range(40), 2) == []
        assert separations(values, [0] * 20 + [1] * 20, range(40), 2) == [([0], [1], 1.0, 1.0)]


class TestImbalance:
    def test_above_100_to_1(self):
        labels = [0] * 202 + [1] * 2
        text = only(noise(204, 50), labels)
        assert text.startswith(
            "The class 'good' has 202 recordings and 'bad' only 2, more than 100"
        )

    def test_100_to_1(self):
        assert findings(made(noise(202, 50), [0] * 200 + [1] * 2)) == ()


class TestOtherWayRound:
    columns = np.cumsum(noise(40, 400), axis=1).T * (1 + np.arange(40) % 7)

    def test_recordings_as_columns(self):
        signals = self.columns - self.columns.mean()
        found = findings(made(signals[:, np.random.default_rng(0).permutation(40)]))
        assert any("columns of the matrix, transpose it" in text for text in found), found

    def test_recordings_as_rows(self):
        assert not any("transpose" in text for text in findings(made(self.columns.T)))
        smooth = np.cumsum(noise(400, 40), axis=1)
        assert not any("transpose" in text for text in findings(made(smooth)))

    def test_labels_that_fit_the_other_dimension(self):
        labels = np.arange(40) % 2
        with pytest.raises(DataError, match=r"give signals.T, where the recordings are the col"):
            Recordings(self.columns, labels, ["a"] * 400, RATE, ("good", "bad"))


class TestReading:
    def test_most_of_the_length_is_not_used(self):
        labels, groups = [0, 1] * 10, range(20)
        lengths, used = [60_000] * 20, [1200] * 20
        (text,) = reading_findings(lengths, used, labels, groups, ("good", "bad"))
        assert text.startswith("Only 2 % of the samples are used, 1200 of 60000 in the median rec")
        assert reading_findings(lengths, [6000] * 20, labels, groups, ("good", "bad")) == ()
        assert reading_findings(lengths, used, labels, groups, ("good", "bad"), "onset") == ()

    def test_the_length_tells_the_classes(self):
        labels, groups = [0, 1] * 10, range(20)
        lengths = np.where(np.array(labels) == 1, 1300, 1200) + np.arange(20)
        (text,) = reading_findings(lengths, [1200] * 20, labels, groups, ("good", "bad"))
        assert text.startswith("The length alone tells good from bad (threshold 1218 samples, bal")
        equal = np.full(20, 1200)
        assert reading_findings(equal, equal, labels, groups, ("good", "bad")) == ()

    def test_channels(self):
        left = noise(1, 400)[0]
        for right, answer in ((-left, True), (-0.9 * left, True), (left, False), (0 * left, False)):
            channels = np.stack([left, right], axis=1) + 0.3
            assert cancels(channels, channels.mean(1)) == answer
        channels = noise(2, 400).T
        assert not cancels(channels, channels.mean(1))


@pytest.fixture
def sounds(tmp_path):
    """20 stereo files of 4000 samples in two classes."""
    for row, signal in enumerate(0.1 * noise(20, 4000)):
        path = tmp_path / "sounds" / ("good", "bad")[row % 2] / f"{row:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([signal, signal[::-1]], axis=1), RATE)
    return tmp_path / "sounds"


class TestSounds:
    def test_usual_files(self, sounds):
        assert read_folder(sounds).findings == ()

    def test_channels_that_cancel_are_counted_and_named(self, sounds):
        for row in (2, 5):
            file = sounds / ("good", "bad")[row % 2] / f"{row:02d}.wav"
            signal = 0.1 * noise(1, 4000, seed=row)[0]
            soundfile.write(file, np.stack([signal, -0.9 * signal], axis=1), RATE)
        (text,) = read_folder(sounds).notes
        assert text.startswith("The channels of 2 of 20 files cancel when they are averaged")
        assert "(bad/05.wav, good/02.wav)" in text
        with pytest.warns(UserWarning, match=r"channels of 1 of 1 files cancel .*good/02.wav"):
            read_cuts(sounds / "good" / "02.wav", sample_rate=RATE, part=Part("whole", 4000))

    def test_most_of_the_length_is_not_used(self, sounds):
        (text,) = read_folder(sounds, samples=300).findings
        assert text.startswith("Only 7.5 % of the samples are used, 300 of 4000 in the median")

    def test_the_length_tells_the_classes(self, sounds):
        for file in (sounds / "bad").iterdir():
            soundfile.write(file, soundfile.read(file)[0][:3500], RATE)
        (text,) = read_folder(sounds, samples=3000).findings
        assert text.startswith("The length alone tells bad from good (threshold 3500 samples, bal")


def test_notes_of_the_reader_are_kept_on_disk_and_shown_first(tmp_path):
    signals = noise()
    signals[1::2] *= 0.1
    recordings = made(signals, notes=["Only 2 % are used."])
    recordings.save(tmp_path / "data")
    read = Recordings.load(tmp_path / "data")
    assert read.findings == recordings.findings
    assert read.findings[0] == "Only 2 % are used."
    assert len(read.findings) == 2
    lines = read.summary().splitlines()
    assert lines[4:] == [f"note: {text}" for text in read.findings]
    assert replace(read, notes=()).findings == read.findings[1:]


def test_pieces_give_what_the_whole_gives(monkeypatch):
    signals = noise()
    signals[3] += 20
    signals[[4, 5]] *= 1e-5
    signals[7] = signals[9]
    whole = findings(made(signals))
    monkeypatch.setattr(plausibility, "_CHUNK", 400)
    assert findings(made(signals)) == whole
    assert len(whole) == 3
