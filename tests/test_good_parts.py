"""Training on good parts alone: who teaches, who sets the limit, what the scores are."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import nn
from typer.testing import CliRunner

from hfld_lite.app import cli
from hfld_lite.app.good import said_of_good
from hfld_lite.app.runs import load_run
from hfld_lite.app.unfinished import Wanted, begin_run, new_run
from hfld_lite.data.good_parts import (
    PITCHES,
    as_good,
    at_pitch,
    said_of_conditions,
    split_good,
    told_apart,
)
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.splits import Split
from hfld_lite.errors import ArgumentError, DataError, HfldError
from hfld_lite.evaluation.good_parts import _wins, auc_interval, by_kind, measured, train_good
from hfld_lite.evaluation.scores import (
    BANDS,
    DIRECTIONS,
    SCORES,
    SHARPNESS,
    Bands,
    Distance,
    Matching,
    Taught,
    autoencoder,
    conformal_limit,
    empty_networks,
    limit_of,
    values,
    whitened,
    with_own_limit,
)
from hfld_lite.losses import one_to_all_matching
from hfld_lite.networks import conv_bn, resnet1d


def recordings(good=30, bad=6, drops=2, kinds=("AN", "BN"), seed=0):
    """Noise in class folders: good ones of two kinds, defective ones of one."""
    rng = np.random.default_rng(seed)
    count = good + bad
    labels = np.r_[np.arange(good) % len(kinds), np.full(bad, len(kinds))].repeat(drops)
    return Recordings(
        rng.standard_normal((count * drops, 64)),
        labels,
        np.arange(count).repeat(drops).astype(str),
        8000,
        (*kinds, "AD"),
        origins=[f"day{i % 3}_{i}.wav:0" for i in range(count) for _ in range(drops)],
    )


class TestGoodAndDefective:
    def test_named_classes_become_good_and_the_others_defective(self):
        found = as_good(recordings(), ["AN", "BN"])
        assert found.class_names == ("good", "defective")
        assert found.normal_classes == ("good",)
        assert found.counts.tolist() == [60, 12]
        assert set(found.kinds[found.labels == 0]) == {"AN", "BN"}
        assert set(found.kinds[found.labels == 1]) == {"AD"}

    def test_all_but_the_defective_ones_are_good(self):
        both = as_good(recordings(), defective=["AD"])
        np.testing.assert_array_equal(both.labels, as_good(recordings(), ["AN", "BN"]).labels)

    def test_with_both_named_the_rest_is_left_out_and_said(self):
        found = as_good(recordings(), ["AN"], ["AD"])
        assert len(found) == 30 + 12
        assert "left out: 30 of the class 'BN'" in found.notes

    def test_unlabelled_recordings_are_left_out_and_said(self):
        whole = recordings()
        labels = np.where(np.arange(len(whole)) < 3, -1, whole.labels)
        part = Recordings(whole.signals, labels, whole.groups, 8000, whole.class_names)
        found = as_good(part, ["AN", "BN"])
        assert len(found) == len(whole) - 3
        assert "left out: 3 unlabelled" in found.notes

    @pytest.mark.parametrize(
        ("good", "defective", "words"),
        [
            (["AM"], [], ["good: no class is named 'AM'", "nearest name is"]),
            (["AN"], ["BD"], ["defective: no class is named 'BD'"]),
            (["AN"], ["AN"], ["'AN' is named both good and defective"]),
            ([], [], ["Name the classes"]),
        ],
    )
    def test_names_that_do_not_fit_are_refused(self, good, defective, words):
        with pytest.raises(ArgumentError) as caught:
            as_good(recordings(), good, defective)
        assert all(word in str(caught.value) for word in words)

    def test_other_data_may_lack_classes(self):
        found = as_good(recordings(), ["AN", "CN"], complete=False)
        assert found.counts.tolist() == [30, 42]

    def test_kinds_stay_with_their_recordings(self):
        found = as_good(recordings(), ["AN", "BN"])
        rows = np.array([70, 3, 0])
        np.testing.assert_array_equal(found.select(rows).kinds, found.kinds[rows])


@pytest.fixture(scope="module")
def data():
    return as_good(recordings(), ["AN", "BN"])


class TestParts:
    def test_groups_stay_whole_and_defects_only_test(self, data):
        parts = split_good(data)
        rows = np.concatenate([*parts.parts().values()])
        assert sorted(rows) == list(range(len(data)))
        groups = [set(data.groups[each]) for each in parts.parts().values()]
        assert not (groups[0] & groups[1])
        assert not (groups[0] & groups[2])
        assert not (groups[1] & groups[2])
        assert (data.labels[parts.train] == 0).all()
        assert (data.labels[parts.validation] == 0).all()
        assert (data.labels[parts.test] == 1).sum() == 12
        assert [len(each) for each in groups] == [16, 8, 6 + 6]

    def test_each_kind_is_in_each_part(self, data):
        for seed in range(5):
            for each in split_good(data, seed=seed).parts().values():
                assert {"AN", "BN"} <= set(data.kinds[each])

    def test_half_of_the_defects_may_choose(self, data):
        parts = split_good(data, use_defects=True)
        assert (data.labels[parts.validation] == 1).sum() == 6
        assert (data.labels[parts.test] == 1).sum() == 6
        assert (data.labels[parts.train] == 0).all()

    def test_a_promise_gets_as_many_groups_as_it_needs(self, data):
        parts = split_good(data, false_alarms=1 / 13)
        assert len(np.unique(data.groups[parts.validation])) == 12
        with pytest.raises(ArgumentError, match=r"false alarms is 0.05; 30 good groups.*0.077"):
            split_good(data, false_alarms=0.05)

    def test_too_few_good_groups_are_refused_with_what_they_could_promise(self):
        few = as_good(recordings(good=19), ["AN", "BN"])
        with pytest.raises(DataError, match=r"19 good groups.*20 or more.*11% false alarms.*99"):
            split_good(few)

    def test_one_defect_cannot_be_divided(self):
        with pytest.raises(DataError, match=r"1 defective groups.*use-defects"):
            split_good(as_good(recordings(bad=1), ["AN", "BN"]), use_defects=True)

    def test_a_group_with_good_and_defective_recordings_is_refused(self):
        whole = recordings()
        groups = np.where(whole.groups == "31", "3", whole.groups)
        mixed = Recordings(whole.signals, whole.labels, groups, 8000, whole.class_names)
        with pytest.raises(DataError, match="'3' has good and defective"):
            split_good(as_good(mixed, ["AN", "BN"]))

    def test_what_networks_tell_apart(self, data):
        parts = split_good(data)
        found, inner = told_apart(data, parts)
        assert len(found.class_names) == 2 * len(PITCHES)
        assert len(found) == len(PITCHES) * (len(parts.train) + len(parts.validation))
        # The groups that set the limit teach nothing and choose nothing.
        limit = set(data.groups[parts.validation])
        assert set(found.groups[inner.test]) == limit
        assert not limit & set(found.groups[np.r_[inner.train, inner.validation]])
        assert not set(found.groups[inner.train]) & set(found.groups[inner.validation])

    def test_pitch_moves_frequencies(self):
        time = np.arange(4000) / 8000
        wave = np.sin(2 * np.pi * 1000 * time)[None].astype(np.float32)
        peak = np.abs(np.fft.rfft(at_pitch(wave, 1.03)[0])).argmax() * 2
        assert peak == pytest.approx(1030, abs=2)

    def test_conditions_that_training_did_not_know_are_named(self, data):
        parts = split_good(data)
        assert said_of_conditions(data, parts, [r"day(\d)"]) == []
        rows = [i for i in range(60) if str(data.origins[i]).startswith("day2")]
        rest = np.setdiff1d(np.arange(60), rows)
        (said,) = said_of_conditions(data, Split(rest[:30], rest[30:], rows), [r"day(\d)"])
        assert "test part" in said
        assert "= 2," in said
        assert "0, 1 only" in said
        apart = replace(data, origins=np.where(data.labels == 1, "day9_x.wav:0", data.origins))
        (said,) = said_of_conditions(apart, parts, [r"day(\d)"])
        assert "All defective recordings have" in said
        with pytest.raises(DataError, match="does not match --condition"):
            said_of_conditions(data, parts, [r"night(\d)"])


class TestLimit:
    def test_one_recording_a_group_is_the_usual_conformal_limit(self):
        scores = np.arange(19.0)[::-1]
        assert conformal_limit(scores, np.arange(19), 0.05) == 18
        assert conformal_limit(scores, np.arange(19), 0.10) == 17
        with pytest.raises(ArgumentError, match=r"0.04; 19 good groups can promise 0.05"):
            conformal_limit(scores, np.arange(19), 0.04)

    def test_the_promise_holds_for_new_groups_however_alike_a_group_is(self):
        rng, rate, exceeded = np.random.default_rng(0), 0.1, []
        for _ in range(3000):
            sizes = rng.integers(1, 6, 20)  # 19 groups set the limit, the last is new
            levels = rng.standard_normal(20)
            groups = np.repeat(np.arange(20), sizes)
            scores = np.exp(levels[groups] + 0.1 * rng.standard_normal(len(groups)))
            known = groups < 19
            limit = conformal_limit(scores[known], groups[known], rate)
            exceeded.append((scores[~known] > limit).mean())
        assert 0.07 < np.mean(exceeded) <= rate + 0.01  # 0.1 and its standard error

    def test_equal_scores_are_refused(self):
        with pytest.raises(ArgumentError, match=r"All 30 good recordings.*same score, 2"):
            conformal_limit(np.full(30, 2.0), np.arange(30), 0.1)

    def test_windows_are_limited_by_their_average(self):
        rng = np.random.default_rng(1)
        scores, wholes = rng.gamma(2, 1, 120), np.arange(40).repeat(3)
        limit = limit_of(scores, wholes, 0.1, wholes)
        p = 1 / (1 + np.exp(-SHARPNESS * (scores / limit - 1)))
        means = np.sort(p.reshape(40, 3).mean(1))
        assert means[36] == pytest.approx(0.5, abs=1e-6)  # 36 of 41 below, the 37th at the limit
        single = limit_of(scores, np.arange(120), 0.1, np.arange(120))
        assert single == pytest.approx(limit_of(scores, np.arange(120), 0.1))


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(80, 300, generator=torch.Generator().manual_seed(0))


class TestScores:
    def test_a_distance_is_that_of_ledoit_and_wolf(self, inputs):
        network = whitened(Bands(), inputs)
        rows = Bands()(inputs).numpy()
        expected = LedoitWolf().fit(rows.astype(float)).mahalanobis(rows) / BANDS
        np.testing.assert_allclose(values(network, inputs), expected, rtol=1e-3)

    def test_a_small_distance_keeps_the_directions_that_vary_least(self, inputs):
        body = nn.Linear(300, 6)
        with torch.no_grad():
            body.weight.zero_()
            body.weight[torch.arange(6), torch.arange(6)] = torch.tensor([9.0, 8, 7, 6, 0.1, 0.2])
        first = whitened(body, inputs, 2)[1].weight.detach().abs()
        assert (first[:, 4:].amax(1) > 10 * first[:, :4].amax(1)).all()

    def test_matching_is_the_residual_of_one_to_all_matching(self, inputs):
        torch.manual_seed(0)
        roles = ("teacher", "student")
        networks = {role: resnet1d(10, 2, 1 / 16, "small").eval() for role in roles}
        channels = networks["student"].feature_channels
        project = {"student": conv_bn(channels, channels, 1).eval()}
        body = Matching(networks, project, {"student": "teacher"}, 4)
        with torch.no_grad():
            student, teacher = (networks[role](inputs[:4]).features for role in reversed(roles))
            for row in range(4):
                expected = one_to_all_matching(
                    project["student"](student[row : row + 1]), teacher[row : row + 1], 4
                )
                assert body(inputs[:4])[row].square().mean() == pytest.approx(float(expected))

    def test_an_autoencoder_is_fitted_and_its_error_read(self, inputs):
        (network,) = autoencoder(Taught({}, {}, {}, 8, inputs, 3)).values()
        error = values(network, inputs).mean()
        assert error < values(network, torch.flip(inputs, (1,)) * 2).mean() / 2

    def test_the_answer_changes_at_the_limit(self, inputs):
        network = Distance(whitened(Bands(), inputs), BANDS)
        found = values(network.body, inputs)
        network.set_limit(float(np.median(found)), 0.1)
        assert network.limit == pytest.approx(np.median(found), rel=1e-5)
        logits = network(inputs).logits.detach().numpy()
        np.testing.assert_array_equal(logits.argmax(1), found > np.median(found))
        np.testing.assert_allclose(
            logits[:, 1] - logits[:, 0], SHARPNESS * (found / np.median(found) - 1), atol=1e-3
        )

    def test_another_form_of_a_network_gets_its_own_limit(self, inputs):
        network = Distance(whitened(Bands(), inputs), BANDS)
        network.set_limit(1.0, 0.1)

        def rough(signals):  # an eight-bit form whose scores are a fifth too high
            s = 1.2 * values(network.body, torch.from_numpy(signals))
            p = 1 / (1 + np.exp(-SHARPNESS * (s - 1)))
            return np.stack([1 - p, p], 1)

        groups = np.arange(80)
        found = with_own_limit(network, rough, inputs.numpy(), groups)
        expected = 1.2 * conformal_limit(values(network.body, inputs), groups, 0.1)
        assert found.limit == pytest.approx(expected, rel=1e-4)
        assert network.limit == pytest.approx(1.0)

    def test_every_score_has_empty_networks_of_the_same_shapes(self, trained):
        for name, networks in trained.networks.items():
            empty = empty_networks(name, trained.chain.recipe)
            assert list(empty) == list(networks)
            for role, network in networks.items():
                shapes = [
                    {key: value.shape for key, value in each.state_dict().items()}
                    for each in (network, empty[role])
                ]
                assert shapes[0] == shapes[1], (name, role)


class TestFigures:
    def test_wins_of_pairs_give_the_area(self):
        rng = np.random.default_rng(0)
        labels, groups = np.repeat([0, 1], 40), np.arange(80) // 4
        scores = np.round(rng.random(80) + 0.2 * labels, 1)  # with ties
        wins, sizes = _wins(scores, labels, groups)
        area = wins.sum() / (sizes[0].sum() * sizes[1].sum())
        assert area == pytest.approx(roc_auc_score(labels, scores))
        low, high = auc_interval(scores, labels, groups)
        assert low < area < high

    def test_misses_are_unknown_without_defects(self):
        good = as_good(recordings(bad=2), ["AN", "BN"])
        part = good.select(np.flatnonzero(good.labels == 0))
        found = measured(np.linspace(0, 0.6, len(part)), part)
        assert found["auc"] is None
        assert found["miss_rate"] is None
        assert found["false_alarm_rate"] == pytest.approx(np.mean(np.linspace(0, 0.6, 60) > 0.5))
        assert found["false_low"] < found["false_alarm_rate"] < found["false_high"]

    def test_each_kind_is_counted(self):
        good = as_good(recordings(), ["AN", "BN"])
        table = by_kind((good.kinds == "AD") * 0.9, good).set_index("kind")
        assert table.loc["AD", "called_defective"] == 12
        assert table.loc["AN", "called_defective"] == 0
        assert table.loc["BN", "class"] == "good"


@pytest.fixture(scope="module")
def tiles(tiny_tiles):
    return as_good(tiny_tiles, ["AN", "BN"])


@pytest.fixture(scope="module")
def tiny_tiles():
    from hfld_lite import simulate_tiles

    return simulate_tiles("AB", tiles_per_class=12, drops=2, seed=3)


@pytest.fixture(scope="module")
def trained(tiles, tiny_recipe):
    return train_good(tiles, tiny_recipe, split_good(tiles), progress=False)


class TestTraining:
    def test_networks_have_two_classes_and_learned_from_good_parts_only(self, trained, tiles):
        assert list(trained.networks) == list(SCORES)
        assert trained.chain.detector.class_names == ("good", "defective")
        assert trained.score == "spectrum"
        assert trained.chain.detector.answering == "spectrum"
        assert trained.groups == 6
        assert trained.false_alarms == pytest.approx(1 / 7, abs=1e-5)
        assert (tiles.labels[trained.chain.split.train] == 0).all()

    def test_the_limit_holds_on_what_set_it(self, trained, tiles):
        rows = trained.chain.split.validation
        for role in trained.chain.detector.networks:
            p = trained.chain.predict(tiles.signals[rows], tiles.sample_rate, role)[:, 1]
            assert (p > 0.5).sum() <= 1, role  # a promise of 1/7 by six groups: none above all

    def test_a_student_is_small(self, trained):
        student = trained.networks["features"]["student"]
        assert student.answer.in_features == DIRECTIONS

    def test_the_same_bits_again(self, trained, tiles, tiny_recipe):
        again = train_good(tiles, tiny_recipe, split_good(tiles), progress=False)
        for name, networks in trained.networks.items():
            for role, network in networks.items():
                for key, value in network.state_dict().items():
                    other = again.networks[name][role].state_dict()[key]
                    assert torch.equal(value, other), (name, role, key)

    def test_inputs_that_are_read_step_by_step_give_the_same_bits(
        self, trained, tiles, tiny_recipe
    ):
        again = train_good(tiles, tiny_recipe, split_good(tiles), progress=False, in_memory=False)
        rows = again.chain.split.test
        pd.testing.assert_frame_equal(again.table(tiles, rows), trained.table(tiles, rows))

    def test_the_table_has_every_score_and_the_plain_one_of_trust(self, trained, tiles):
        table = trained.table(tiles, trained.chain.split.test)
        assert set(table["score"]) == {*SCORES, "trust"}
        assert table["auc"].between(0, 1).all()
        assert (table["auc_low"] <= table["auc"]).all()
        assert (table["auc"] <= table["auc_high"]).all()

    def test_defects_choose_the_score_if_they_may(self, tiles, tiny_recipe):
        parts = split_good(tiles, use_defects=True)
        found = train_good(tiles, tiny_recipe, parts, use_defects=True, progress=False)
        assert found.score == max(found.chosen_by, key=found.chosen_by.get)
        assert set(found.chosen_by) == set(SCORES)

    def test_windows_are_counted_as_their_recordings(self, tiles):
        whole = replace(tiles, wholes=np.char.add("file", tiles.groups))
        said = said_of_good(whole, split_good(whole), Wanted())
        assert "6 good groups (6 recordings)" in said[0]
        assert "24 defective recordings test it" in said[-1]

    def test_an_unknown_score_is_refused_before_any_training(self, tiles, tiny_recipe):
        with pytest.raises(ArgumentError, match=r"Score 'feature'.*features"):
            train_good(tiles, tiny_recipe, split_good(tiles), score="feature", progress=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_tiles, tiny_recipe):
    """WAV files of good and broken parts, a recipe, and a run on the good ones."""
    folder = tmp_path_factory.mktemp("good")
    signals = tiny_tiles.signals / np.abs(tiny_tiles.signals).max()
    for row, (signal, group) in enumerate(zip(signals, tiny_tiles.groups, strict=True)):
        kind = "good" if "N" in group else "broken"
        path = folder / "data" / kind / f"day{row % 2}_{group}_{row}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, signal, tiny_tiles.sample_rate)
    shutil.copytree(folder / "data" / "good", folder / "alone" / "good")
    tiny_recipe.save(folder / "recipe.json")
    said = hfld(folder, "data", "run", "--use-defects", "--score", "features")
    return folder, said


GROUPS = ("--group-pattern", r"([AB][ND]\d+)")


def hfld(folder, data, out, *options, code=0):
    """Train on a folder's good parts in this process; what was printed."""
    given = ["train", "--data", folder / data, "--good", "good", *GROUPS, "--quiet"]
    given += ["--recipe", folder / "recipe.json", "--out", folder / out, *options]
    return command(*given, code=code)


def command(*given, code=0):
    found = CliRunner().invoke(cli.app, [str(each) for each in given])
    error = found.exception
    if isinstance(error, HfldError):
        assert code == 2, error
        return str(error)
    assert found.exit_code == code, (found.output, found.exception)
    return " ".join(found.output.split())  # lines are broken at 80


class TestCommand:
    def test_a_run_is_trained_and_says_what_it_promises(self, place):
        folder, said = place
        assert "called defective" in said
        assert "24 defective recordings choose the limit of unsure, 24" in said
        assert "The score features answers" in said
        facts = json.loads((folder / "run" / "run.json").read_text())
        assert facts["good_parts"]["score"] == "features"
        assert facts["class_names"] == ["good", "defective"]
        page = (folder / "run" / "report.html").read_text()
        assert "Trained on good parts alone" in page
        assert "autoencoder" in page

    def test_loaded_networks_answer_as_the_trained_ones(self, place, tiny_tiles):
        folder, _ = place
        run = load_run(folder / "run")
        table = pd.read_csv(folder / "run" / "scores.csv")
        recordings = run.recordings().select(run.split.test)
        for role in run.detector.networks:
            p = run.detector.predict(recordings.signals, recordings.sample_rate, role)[:, 1]
            row = table[(table["score"] == "features") & (table["role"] == role)].iloc[0]
            assert measured(p, recordings)["auc"] == pytest.approx(row["auc"], abs=1e-6)

    def test_evaluate_gives_scores_and_kinds(self, place, tmp_path):
        folder, _ = place
        command("evaluate", folder / "run", "--output", tmp_path / "out.jsonl")
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        kinds = {row["kind"]: row for row in rows if row.get("table") == "kind"}
        assert set(kinds) == {"good", "broken"}
        assert {row["role"] for row in rows if row.get("table") == "score"} >= {"student"}

    def test_predict_says_what_the_limit_promises(self, place):
        folder, _ = place
        said = command("predict", folder / "data" / "broken", "--run", folder / "run")
        assert "called defective" in said
        assert "it is not that of a defect" in said

    def test_facts_of_another_score_are_damage(self, place):
        folder, _ = place
        shutil.copytree(folder / "run", folder / "other")
        facts = json.loads((folder / "other" / "run.json").read_text())
        facts["good_parts"]["score"] = "matching"
        (folder / "other" / "run.json").write_text(json.dumps(facts))
        assert "good_parts.score is" in command("info", folder / "other", code=2)

    def test_defective_recordings_alone_leave_false_alarms_unknown(self, place):
        folder, _ = place
        shutil.copytree(folder / "data" / "broken", folder / "bad" / "broken")
        said = command("evaluate", folder / "run", "--data", folder / "bad")
        assert "AUC and false alarms are unknown" in said

    def test_resumed_it_has_the_same_bits(self, place, tiny_recipe):
        folder, _ = place
        origin = {"folder": str(folder / "data"), "options": {"group_pattern": GROUPS[1]}}
        wanted = Wanted(use_defects=True, score="features")

        def stopped():
            with new_run(folder / "again") as part:
                begin_run(part, tiny_recipe, origin | {"good": ["good"]}, "hfld train", good=wanted)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped()
        command("train", "--resume", folder / "again", "--quiet")
        for path in (folder / "run").glob("*.safetensors"):
            assert path.read_bytes() == (folder / "again" / path.name).read_bytes(), path.name

    def test_one_class_alone_trains_and_misses_are_unknown(self, place):
        folder, _ = place
        said = hfld(folder, "alone", "run_alone")
        assert "AUC and misses are unknown" in said
        run = load_run(folder / "run_alone")
        assert run.detector.answering == "spectrum"
        said = command("evaluate", folder / "run_alone", "--data", folder / "data")
        assert "broken" in said

    def test_eight_bits_and_c(self, place, tmp_path):
        folder, _ = place
        for format in ("onnx-int8", "c"):
            out = tmp_path / format
            said = command("export", folder / "run", "--format", format, "--out", out)
            assert "after quantisation" in said
            assert "of good recordings are called defective" in said

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--score", "feature"], ["Score", "'feature'", "features"]),
            (["--false-alarms", "1.5"], ["--false-alarms is 1.5", "below 0.5"]),
            (["--false-alarms", "0.001"], ["24 good groups", "ask for that, or record"]),
            (["--auto"], ["--auto chooses by defects"]),
            (["--teacher", "x"], ["--teacher knows other classes"]),
            (["--devices", "2"], ["--devices"]),
            (["--defective", "brokn"], ["defective: no class is named 'brokn'", "broken"]),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_is_written(self, place, options, words):
        folder, _ = place
        said = hfld(folder, "data", "refused", *options, code=2)
        assert all(word in said for word in words), said
        assert not list(folder.glob("refused*"))

    def test_options_of_good_parts_need_them(self, tmp_path):
        said = command("train", "--out", tmp_path / "run", "--score", "spectrum", code=2)
        assert "--score is for a training on good parts alone" in said

    def test_one_class_without_good_names_the_way_out(self, place):
        folder, _ = place
        said = command("train", "--data", folder / "alone", "--out", folder / "refused", code=2)
        assert "only the class 'good'" in said
        assert "--good" in said

    def test_a_condition_is_warned_of(self, place):
        folder, _ = place
        said = hfld(
            folder, "data", "refused", "--condition", r"_(\d+)\.wav", "--score", "x", code=2
        )
        assert "Score" in said  # refused before; with a score that is known it warns:
        recordings = load_run(folder / "run").recordings()
        parts = split_good(recordings, seed=0)
        assert said_of_conditions(recordings, parts, [r"_(\d+)\.wav"])
