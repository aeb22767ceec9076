"""The PVPN and the ways to set the weights: sizes, order, who learns from what, collapse."""

import copy
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import nn

import hfld_lite.rivals.meta as meta_module
from hfld_lite import distill_chain
from hfld_lite.data.examples import Shape
from hfld_lite.distillation import Distiller
from hfld_lite.errors import ArgumentError, RecipeError, collapse
from hfld_lite.losses import separated_logit_loss
from hfld_lite.networks import Output, count_parameters, resnet1d
from hfld_lite.recipes import Recipe
from hfld_lite.rivals.meta import Meta, _drops_out, meta_gradient
from hfld_lite.rivals.released import ImagePVPN, Published, PublishedImages
from hfld_lite.rivals.strategies import Naive, Uncertainty
from hfld_lite.rivals.trusted import Trusted, optimizer_step
from hfld_lite.storage.randomness import seeded
from hfld_lite.teachers import Batch, teacher_targets
from hfld_lite.weighting import PVPN, TERMS, WEIGHTINGS, Fixed, make_weighting

CHANNELS, POSITIONS, CLASSES = 6, 3, 4
EQUAL = dict.fromkeys(TERMS, 1.0)
LEARNED = ("naive", "uncertainty", "meta", "trusted")
PREDICTED = ("published", *LEARNED)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The tensors are tiny: on a busy machine more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Student(nn.Module):
    """The smallest network with all that matters: features, batch norm, logits."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv1d(1, CHANNELS, 3, stride=2)
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.head = nn.Linear(CHANNELS * POSITIONS, CLASSES)

    def forward(self, inputs):
        features = torch.tanh(self.norm(self.body(inputs.unsqueeze(1))))
        return Output(features, self.head(features.flatten(1)))


class World:
    """A student, a training batch with a teacher's answers, and a meta batch."""

    def __init__(self, seed=0, dtype=torch.float64, classes=CLASSES):
        torch.manual_seed(seed)
        self.student = Student().to(dtype)
        self.inputs = torch.randn(12, 8, dtype=dtype)
        self.target = torch.randint(classes, (12,))
        self.teacher = torch.randn(12, CLASSES, dtype=dtype)
        self.teacher_features = torch.randn(12, CHANNELS, POSITIONS, dtype=dtype)
        self.meta = torch.randn(10, 8, dtype=dtype), torch.randint(classes, (10,))

    def losses(self, student=None):
        features, logits = (student or self.student)(self.inputs)
        tckd, nckd = separated_logit_loss(logits, self.teacher, self.target, 4.0)
        feature = F.mse_loss(features, self.teacher_features)
        named = dict(
            zip(TERMS, (feature, tckd, nckd, F.cross_entropy(logits, self.target)), strict=True)
        )
        return named, features

    def weighting(self, name, **options):
        if name in ("meta", "trusted"):
            given = {"student": self.student, "next_batch": lambda: self.meta}
            if name == "trusted":
                given |= {"kappa": 2.0, "low": 1.0, "high": 3.0, "memory": 0.9}
            options = {**given, "learning_rate": 0.1, "every": 1, **options}
        read = (EQUAL,) if name == "fixed" else (CHANNELS, POSITIONS)
        return WEIGHTINGS[name](*read, **options).double()


def constant_losses(*values):
    return dict(zip(TERMS, (torch.tensor(v) for v in values), strict=True))


def say(pvpn, *outputs):
    """Make the PVPN answer with these outputs whatever it reads."""
    nn.init.zeros_(pvpn.layers[-1].weight)
    with torch.no_grad():
        pvpn.layers[-1].bias.copy_(torch.tensor(outputs))


def vary(weighting):
    """Let the PVPN's outputs depend on what it reads; at the start they do not."""
    with torch.no_grad():
        for p in weighting.pvpn.layers[-1].parameters():
            p.copy_(0.3 * torch.randn(p.shape))
    return weighting


def floats(weighting):
    return {name: float(w) for name, w in weighting.weights.items()}


# The PVPN


@pytest.mark.parametrize("hidden", ["published", "adaptive"])
@pytest.mark.parametrize(
    ("kind", "read", "size"), [(PVPN, (512, 9), 224_808), (ImagePVPN, (64, 1), 85_027)]
)
def test_sizes_of_the_paper(kind, read, size, hidden):
    assert count_parameters(kind(*read, hidden=hidden)) == size


def test_adaptive_sizes_follow_the_channels():
    widths = [layer.weight.shape[0] for layer in PVPN(128, 5).layers if hasattr(layer, "weight")]
    assert widths == [64, 8, 4, 128, 32, 4]  # a quarter of 256, 32, 512, 128; never below 4
    assert count_parameters(PVPN(2048, 9)) == count_parameters(PVPN(2048, 9, hidden="published"))


def test_adaptive_is_smaller_than_the_smallest_student():
    student = resnet1d(10, 2, width=1 / 16, head="small")
    pvpn = PVPN(student.feature_channels, 9)
    assert count_parameters(pvpn) < 0.2 * count_parameters(student)
    assert pvpn(student(torch.rand(2, 300)).features).shape == (2, 4)


def test_maps_are_read_as_positions():
    pvpn, maps = PVPN(8, 6), torch.rand(3, 8, 2, 3)
    torch.testing.assert_close(pvpn(maps), pvpn(maps.flatten(2)))
    assert pvpn(maps.bfloat16()).dtype == torch.float32


def test_a_pvpn_refuses_what_it_was_not_built_for():
    with pytest.raises(ArgumentError, match=r"8 channels at 6 positions; found .*\(3, 8, 5\)"):
        PVPN(8, 6)(torch.rand(3, 8, 5))
    with pytest.raises(ArgumentError, match="a position and an output at least; found 8, 6 and 0"):
        PVPN(8, 6, outputs=0)
    with pytest.raises(ArgumentError, match="published or adaptive"):
        PVPN(8, 6, hidden="huge")


def test_outputs_stand_in_the_published_order():
    weighting = Published(8, 6)
    say(weighting.pvpn, -1.0, 0.0, 1.0, 2.0)  # μ, ν, α, β
    total = weighting(constant_losses(1.0, 10.0, 100.0, 1000.0), torch.rand(3, 8, 6))
    mu, nu, alpha, beta = torch.tensor([-1.0, 0.0, 1.0, 2.0]).sigmoid().tolist()
    expected = {"feature": alpha, "tckd": mu, "nckd": nu, "cross_entropy": beta}
    assert floats(weighting) == pytest.approx(expected)
    assert float(total) == pytest.approx(alpha + 10 * mu + 100 * nu + 1000 * beta)


def test_three_outputs_split_the_logit_terms_one_to_two():
    weighting = PublishedImages(64, 1)
    say(weighting.pvpn, 1.0, 0.0, -1.0)
    weighting(constant_losses(1.0, 1.0, 1.0, 1.0), torch.rand(3, 64, 1, 1))
    expected = (1 / (1 + math.exp(-1)), 0.5, 1.0, 1 / (1 + math.e))
    assert floats(weighting) == pytest.approx(dict(zip(TERMS, expected, strict=True)))


def test_sigmoids_are_averaged_over_the_batch():
    world = World()
    weighting, features = vary(world.weighting("naive")), 9 * torch.randn(5, CHANNELS, POSITIONS)
    weighting(world.losses()[0], features)
    by_sample = weighting.pvpn(features).sigmoid()
    assert by_sample.std(0).max() > 0.01
    torch.testing.assert_close(weighting.weights["tckd"], by_sample[:, 0].mean().detach())


# Who learns from what


@pytest.mark.parametrize("name", PREDICTED)
def test_no_gradient_reaches_the_features_through_the_weights(name):
    world = World()
    weighting = vary(world.weighting(name))
    losses, features = world.losses()
    features = features.detach().requires_grad_()
    weighting(losses, features).backward()
    assert features.grad is None


def test_the_released_code_pays_the_student_for_smaller_weights():
    world = World()
    released = world.weighting("published", detach_input=False)
    losses, features = world.losses()
    features = features.detach().requires_grad_()
    released({name: loss.detach() for name, loss in losses.items()}, features).backward()
    assert features.grad.abs().max() > 0
    after = features.detach() - 10 * features.grad
    before = sum(floats(released).values())
    released(losses, after)
    assert sum(floats(released).values()) < before


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_student_learns_from_the_weighted_terms_with_the_weights_held(name):
    world = World()
    weighting = world.weighting(name)
    if name in LEARNED:
        vary(weighting)
    losses, features = world.losses()
    total = weighting(losses, features)
    total.backward()
    found = [p.grad for p in world.student.parameters()]
    weights = floats(weighting)
    assert list(weights) == list(TERMS)
    assert not any(w.requires_grad for w in weighting.weights.values())
    losses, _ = world.losses()
    expected = sum(weights[term] * losses[term] for term in TERMS)
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    for f, e in zip(
        found, torch.autograd.grad(expected, list(world.student.parameters())), strict=True
    ):
        torch.testing.assert_close(f, e)


@pytest.mark.parametrize("name", PREDICTED)
def test_which_pvpn_learns(name):
    world = World()
    weighting = world.weighting(name)
    if name == "trusted":
        heard(weighting, *[(1.0, -2.0, 0.5, -3.0), (1.0, -2.0, -0.5, 3.0)] * 3)
    start = copy.deepcopy(weighting.pvpn.state_dict())
    weighting(*world.losses()).backward()
    last = weighting.pvpn.layers[-1]
    if name == "published":
        assert all(not p.requires_grad and p.grad is None for p in weighting.parameters())
        assert last.weight.abs().max() > 0  # random, as released
    else:
        assert last.bias.grad.abs().min() > 0
        assert not last.weight.any()  # equal weights at the start
        assert len(set(floats(weighting).values())) == 1
    vary(weighting)(*world.losses()).backward()
    assert all((p.grad is None) == (name == "published") for p in weighting.pvpn.parameters())
    assert start.keys() == weighting.pvpn.state_dict().keys()


# Fixed


def test_fixed_needs_no_features_and_names_its_weights():
    weighting = Fixed({"feature": 2.0, "cross_entropy": 0.5})
    losses = constant_losses(3.0, 100.0, 100.0, 4.0)
    assert float(weighting(losses)) == float(weighting(losses, torch.rand(2, 3, 4))) == 8.0
    assert floats(weighting) == {"feature": 2.0, "cross_entropy": 0.5}


@pytest.mark.parametrize("weights", [{"tckd": -1.0}, {"tckd": 0.0}, {"tckd": math.nan}])
def test_fixed_refuses_impossible_weights(weights):
    with pytest.raises(ArgumentError, match="each must be 0 or more"):
        Fixed(weights)


# Fixed sums and terms that are zero


@pytest.mark.parametrize("name", ["uncertainty", "meta"])
@pytest.mark.parametrize("total", [None, 2.5])
def test_the_sum_of_the_weights_is_fixed(name, total):
    world = World()
    weighting = world.weighting(name, total=total)
    for _ in range(3):
        vary(weighting)(*world.losses())
        assert sum(floats(weighting).values()) == pytest.approx(total or 4)
        assert len({round(w, 6) for w in floats(weighting).values()}) == 4


@pytest.mark.parametrize("name", ["uncertainty", "meta"])
@pytest.mark.parametrize("how", ["zero", "missing"])
def test_zero_terms_are_dropped(name, how):
    world = World()
    weighting = vary(world.weighting(name))
    losses, features = world.losses()
    if how == "zero":
        losses["nckd"] = losses["nckd"] * 0
    else:
        del losses["nckd"]
    weighting(losses, features).backward()
    weights = floats(weighting)
    assert weights["nckd"] == 0
    assert sum(weights.values()) == pytest.approx(3)
    gradient = weighting.pvpn.layers[-1].bias.grad  # in the published order: μ, ν, α, β
    assert gradient[1] == 0
    assert gradient[[0, 2, 3]].abs().min() > 0


def test_nothing_breaks_when_all_terms_are_zero():
    for name in ("uncertainty", "meta"):
        weighting = World().weighting(name)
        weighting.eval()
        weighting(constant_losses(0.0, 0.0, 0.0, 0.0), torch.rand(2, CHANNELS, POSITIONS))
        assert floats(weighting) == EQUAL


def test_losses_of_unknown_names_are_refused():
    with pytest.raises(ArgumentError, match="matching"):
        Naive(8, 6)({"matching": torch.tensor(1.0)}, torch.rand(2, 8, 6))


# Uncertainty


@pytest.mark.parametrize("start", [0.0, 9.0, -3.0])
def test_uncertainty_settles_at_one_over_the_loss(start):
    torch.manual_seed(0)
    weighting, features = Uncertainty(CHANNELS, POSITIONS), torch.rand(8, CHANNELS, POSITIONS)
    say(weighting.pvpn, *[start] * 4)
    losses = constant_losses(0.5, 4.0, 0.05, 1.0)
    optimizer = torch.optim.Adam(weighting.parameters(), 0.05)
    for _ in range(500):
        optimizer.zero_grad()
        weighting(losses, features).backward()
        optimizer.step()
    unscaled = weighting.unscaled(features).detach()
    torch.testing.assert_close(unscaled, torch.tensor([2.0, 0.25, 20.0, 1.0]), rtol=1e-3, atol=0)
    expected = unscaled * 4 / unscaled.sum()
    torch.testing.assert_close(torch.stack(list(weighting.weights.values())), expected)


def test_uncertainty_is_bounded():
    weighting = Uncertainty(CHANNELS, POSITIONS)
    for start in (-1e4, 1e4):
        say(weighting.pvpn, *[start] * 4)
        assert weighting.unscaled(torch.rand(2, CHANNELS, POSITIONS))[0].item() == pytest.approx(
            math.exp(-math.copysign(6, start)), rel=1e-4
        )


@pytest.mark.parametrize("loss", [1e-2, 1e-4])
def test_uncertainty_settles_no_higher_than_the_bound(loss):
    """1/L is above exp(6) where L is below exp(−6) = 0.0025: the weight stays below the bound."""
    torch.manual_seed(0)
    weighting, features = Uncertainty(CHANNELS, POSITIONS), torch.rand(8, CHANNELS, POSITIONS)
    optimizer = torch.optim.Adam(weighting.parameters(), 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        weighting(constant_losses(loss, 1.0, 1.0, 1.0), features).backward()
        optimizer.step()
    reached = weighting.unscaled(features)[0].item()
    if loss > math.exp(-6):
        assert reached == pytest.approx(1 / loss, rel=0.02)
    else:
        assert 350 < reached < 1.0001 * math.exp(6) < 0.05 / loss


# Naive


@pytest.mark.parametrize(("optimizer", "rate"), [(torch.optim.SGD, 0.5), (torch.optim.Adam, 0.02)])
def test_naive_weights_collapse_and_the_collapse_is_named(optimizer, rate):
    world = World()
    weighting = world.weighting("naive")
    optimizer = optimizer([*world.student.parameters(), *weighting.parameters()], rate)
    said = []
    for _ in range(200):
        optimizer.zero_grad()
        weighting(*world.losses()).backward()
        optimizer.step()
        said.append(collapse(floats(weighting), sigmoid=weighting.sigmoid))
    assert said[0] == ""
    assert said[-1]
    assert sum(floats(weighting).values()) < 0.02 * 2  # of 4 · 1/2


# Meta


def by_differences(world, weights, rate, h=1e-5):
    """dL_meta/dw by perturbing each weight, taking the step with SGD and looking."""

    def meta_loss(weights):
        student = copy.deepcopy(world.student)
        losses, _ = world.losses(student)
        sum(w * losses[term] for w, term in zip(weights, TERMS, strict=True)).backward()
        torch.optim.SGD(student.parameters(), rate).step()
        return F.cross_entropy(student(world.meta[0]).logits, world.meta[1]).item()

    slopes = []
    for i in range(len(TERMS)):
        up, down = weights.clone(), weights.clone()
        up[i] += h
        down[i] -= h
        slopes.append((meta_loss(up) - meta_loss(down)) / (2 * h))
    return torch.tensor(slopes, dtype=torch.float64)


@pytest.mark.parametrize("rate", [1e-3, 0.5])
def test_meta_gradient_agrees_with_finite_differences(rate):
    world = World()
    weights = torch.tensor([0.3, 1.7, 0.6, 1.4], dtype=torch.float64)
    losses, _ = world.losses()
    found = meta_gradient(list(losses.values()), weights, world.student, *world.meta, rate)
    expected = by_differences(world, weights, rate)
    assert expected.abs().min() > 1e-3 * rate
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7 * rate)


def test_the_pvpn_gets_the_meta_gradient():
    # The gradient of the PVPN's outputs, with w = 4·softmax(outputs), by the chain rule.
    world = World()
    weighting = world.weighting("meta")
    weighting(*world.losses()).backward()
    g = by_differences(world, torch.ones(4, dtype=torch.float64), 0.1)
    g = g / g.abs().max()  # so that the PVPN's rate means the same whatever η
    expected = g - g.mean()  # at equal shares: dw_i/do_j = δ_ij − 1/4
    mu_nu_alpha_beta = expected[[1, 2, 0, 3]]
    torch.testing.assert_close(
        weighting.pvpn.layers[-1].bias.grad, mu_nu_alpha_beta, rtol=1e-5, atol=1e-9
    )


def test_normalised_the_step_of_the_pvpn_does_not_depend_on_the_rate():
    gradients = []
    for rate in (1e-6, 2e-6):
        world = World()
        weighting = world.weighting("meta", learning_rate=rate)
        weighting(*world.losses()).backward()
        gradients.append(weighting.pvpn.layers[-1].bias.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=0)
    assert gradients[0].abs().max() > 0.1


def test_meta_prefers_terms_whose_gradient_helps():
    world = World()
    weighting = world.weighting("meta", learning_rate=0.05)
    world.meta = (world.inputs, world.target)
    optimizer = torch.optim.SGD(weighting.parameters(), 0.1)
    wrong = (world.target + 1) % CLASSES
    noise = [torch.randn_like(p) / 10 for p in world.student.parameters()]
    for _ in range(40):
        features, logits = world.student(world.inputs)
        right = F.cross_entropy(logits, world.target)
        random = sum((n * p).sum() for n, p in zip(noise, world.student.parameters(), strict=True))
        against = F.cross_entropy(logits, wrong)
        terms = dict(zip(TERMS, (right, against, random + 9, right), strict=True))
        optimizer.zero_grad()
        weighting(terms, features).backward()
        optimizer.step()
    weights = floats(weighting)
    assert weights["feature"] == pytest.approx(weights["cross_entropy"])
    assert weights["feature"] > 1.2
    assert weights["tckd"] < 0.5
    assert weights["tckd"] < weights["nckd"] < weights["feature"]


@pytest.mark.parametrize("every", [1, 3])
def test_meta_updates_at_every_kth_training_step(every):
    world = World()
    calls = itertools.count(1)
    weighting = world.weighting("meta", every=every, next_batch=lambda: next(calls) and world.meta)
    learned = []
    for _ in range(7):
        weighting.zero_grad()
        weighting(*world.losses()).backward()
        learned.append(weighting.pvpn.layers[-1].bias.grad is not None)
    assert learned == [step % every == 0 for step in range(1, 8)]
    assert next(calls) == 1 + 7 // every


def test_meta_updates_go_on_where_they_stopped():
    world = World()
    weighting, resumed = (world.weighting("meta", every=3) for _ in range(2))
    weighting(*world.losses())
    weighting(*world.losses())
    resumed.load_state_dict(copy.deepcopy(weighting.state_dict()))
    resumed(*world.losses()).backward()
    assert resumed.pvpn.layers[-1].bias.grad is not None


def test_meta_batches_leave_the_student_as_it_was():
    world = World()
    weighting = world.weighting("meta")
    losses, features = world.losses()  # this forward pass does move the statistics
    before = copy.deepcopy(world.student.state_dict())
    total = weighting(losses, features)
    assert all(torch.equal(before[name], t) for name, t in world.student.state_dict().items())
    assert all(p.grad is None for p in world.student.parameters())
    assert world.student.training
    total.backward()
    assert all(p.grad is not None for p in world.student.parameters())


def test_meta_batches_are_read_as_in_training():
    # In training mode batch norm uses the batch: scaled inputs give the same logits, and gradient.
    world = World()
    losses, _ = world.losses()
    terms, weights = list(losses.values()), torch.ones(4, dtype=torch.float64)
    inputs, target = world.meta
    nn.init.zeros_(world.student.body.bias)
    same = [meta_gradient(terms, weights, world.student, k * inputs, target, 0.0) for k in (1, 9)]
    torch.testing.assert_close(*same)


def test_meta_does_not_own_the_student():
    world = World()
    weighting = world.weighting("meta")
    assert not {id(p) for p in weighting.parameters()} & {id(p) for p in world.student.parameters()}
    assert all(name.startswith(("pvpn", "_extra")) for name in weighting.state_dict())


def test_meta_leaves_frozen_parameters_and_evaluation_alone():
    world = World()
    world.student.body.requires_grad_(False)
    weighting = world.weighting("meta")
    weighting(*world.losses()).backward()
    assert weighting.pvpn.layers[-1].bias.grad.abs().max() > 0
    weighting.zero_grad()
    weighting.eval()
    weighting(*world.losses()).backward()
    assert weighting.pvpn.layers[-1].bias.grad is None


# Trusted

NEVER = 10**9
RATIO = dict(zip(TERMS, (1.0, 0.3, 0.6, 2.0), strict=True))


def heard(weighting, *updates):
    """Let a weighting have seen meta gradients."""
    for update in updates:
        gradient = torch.tensor(update, dtype=torch.float64)
        weighting._keep(gradient, torch.ones(len(update), dtype=torch.bool))
    return weighting


def follow(weighting, losses, features, steps=400):
    """The weights after steps of the PVPN alone."""
    losses = {name: loss.detach() for name, loss in losses.items()}
    optimizer = torch.optim.Adam(weighting.parameters(), 0.02)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        optimizer.zero_grad()
        weighting(losses, features).backward()
        optimizer.step()
    weighting(losses, features)
    return torch.stack(list(weighting.weights.values()))


def test_trusted_settles_where_the_trust_region_has_its_minimum():
    world = World()
    weighting = world.weighting("trusted", prior=RATIO, kappa=1.5, every=NEVER)
    heard(weighting, *[(1.0, 2.0, -1.0, -3.0), (1.1, 0.0, -1.2, -3.0)] * 5)
    signal, prior = weighting.signal().numpy(), weighting.prior.numpy()
    assert signal[0] == 1, "harm beyond doubt"
    assert -1 < signal[1] < 1
    assert signal[2] == signal[3] == -1, "help"
    total = prior.sum()

    def objective(free):  # Σ w is fixed: the last weight is what is left
        w = np.append(free, total - free.sum())
        return w @ signal + (w * np.log(w / prior)).sum() / 1.5

    left = {"type": "ineq", "fun": lambda free: total - free.sum() - 1e-6}
    options = {"bounds": [(1e-6, None)] * 3, "constraints": left, "tol": 1e-12}
    found = minimize(objective, prior[:3], **options).x
    stated = prior * np.exp(-1.5 * signal)
    np.testing.assert_allclose(found, (stated * total / stated.sum())[:3], rtol=1e-4)
    reached = follow(weighting, *world.losses()).numpy()
    np.testing.assert_allclose(reached[:3], found, rtol=2e-3)
    assert reached.sum() == pytest.approx(total)


@pytest.mark.parametrize("kappa", [0.5, 2.0])
def test_trusted_bounds_what_a_term_loses(kappa):
    world = World()
    weighting = world.weighting("trusted", kappa=kappa, every=NEVER)
    heard(weighting, *[(1e6, -1e-6, 1.0, -1.0), (1e6, -2e-6, 1.0, -1.0)] * 3)
    weights = follow(weighting, *world.losses())
    assert weights.max() / weights.min() == pytest.approx(math.exp(2 * kappa), rel=0.01)
    say(weighting.pvpn, 9.0, -9.0, 9.0, -9.0)  # whatever the PVPN says on its way
    weighting(*world.losses())
    weights = torch.stack(list(weighting.weights.values()))
    assert weights.max() / weights.min() == pytest.approx(math.exp(2 * kappa), rel=1e-9)


@pytest.mark.parametrize("case", ["no update", "three updates", "kappa 0", "noise", "all help"])
def test_trusted_is_fixed_without_a_reason(case):
    world, same = World(), Fixed(RATIO).double()
    kappa = 0.0 if case == "kappa 0" else 2.0
    weighting = world.weighting("trusted", prior=RATIO, kappa=kappa, every=NEVER)
    up, down = (1.0, -2.0, 3.0, -4.0), (-1.0, 2.0, -3.0, 4.0)
    helped = (-1.0, -50.0, -3.0, -4.0), (-1.1, -51.0, -3.0, -4.0)
    updates = {"three updates": (up,) * 3, "kappa 0": (up,) * 9, "noise": (up, down) * 9}
    heard(weighting, *(updates | {"all help": helped * 9, "no update": ()})[case])
    losses, features = world.losses()
    weights = follow(weighting, losses, features, steps=30)
    assert not any(p.any() for p in weighting.pvpn.layers[-1].parameters()), (
        "it has no cause to move"
    )
    torch.testing.assert_close(weights, same.values, rtol=1e-12, atol=0)
    assert weighting(losses, features).item() == pytest.approx(same(losses).item(), rel=1e-12)


def test_trusted_distrusts_with_the_evidence_and_forgets():
    weighting, seen = World().weighting("trusted", every=NEVER), []
    for _ in range(8):
        heard(weighting, (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, -0.1))
        seen.append(float(weighting.signal()[3]))
    assert -1 == seen[0] < seen[3] < seen[7] < 1 == weighting.signal()[0]
    heard(weighting, *[(-1.0, 1.0, 1.0, 1.0)] * 60)
    assert weighting.signal().tolist() == [-1, 1, 1, 1]


def after_steps(kind, student, world, steps=3, **options):
    """An optimiser with a history, as in the midst of a training."""
    optimizer = kind(student.parameters(), **options)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(world.losses(student)[0].values()).backward()
        optimizer.step()
    optimizer.zero_grad()
    return optimizer


OPTIMIZERS = [
    (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.3}),
    (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.SGD, {"lr": 0.05}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS, ids=["adamw", "momentum", "sgd"])
@pytest.mark.parametrize("steps", [0, 3])
def test_trusted_takes_the_gradient_of_the_real_step(kind, options, steps):
    world, h = World(), 1e-5
    optimizer = after_steps(kind, world.student, world, steps, **options)
    weights = torch.tensor([0.3, 1.7, 0.6, 1.4], dtype=torch.float64)

    def meta_loss(weights):
        student = copy.deepcopy(world.student)
        real = kind(student.parameters(), **options)
        real.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        losses, _ = world.losses(student)
        sum(w * losses[term] for w, term in zip(weights, TERMS, strict=True)).backward()
        real.step()
        return F.cross_entropy(student(world.meta[0]).logits, world.meta[1]).item()

    unit = h * torch.eye(4, dtype=torch.float64)
    expected = [(meta_loss(weights + u) - meta_loss(weights - u)) / (2 * h) for u in unit]
    before = copy.deepcopy(optimizer.state_dict())
    losses, _ = world.losses()
    step = partial(optimizer_step, optimizer)
    found = meta_gradient(list(losses.values()), weights, world.student, *world.meta, step)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-8)
    if steps or kind is not torch.optim.AdamW:  # the first step of Adam is η sign(g), whatever w
        assert expected.abs().min() > 1e-5
    for old, new in zip(before["state"].values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(old[k]), torch.as_tensor(new[k])) for k in old)


def test_trusted_asks_the_optimiser_that_the_loop_gives_it():
    world = World()
    asked, gradients = world.weighting("trusted"), []
    for optimizer in (None, after_steps(*OPTIMIZERS[0][:1], world.student, world, lr=0.05)):
        asked.optimizer = optimizer
        asked._keep = lambda gradient, _: gradients.append(gradient)
        asked(*world.losses())
    weights, losses = torch.ones(4, dtype=torch.float64), list(world.losses()[0].values())
    for step, found in zip((0.1, partial(optimizer_step, optimizer)), gradients, strict=True):
        expected = meta_gradient(losses, weights, world.student, *world.meta, step)
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(*gradients, rtol=0.1)


def test_a_parameter_without_a_gradient_keeps_the_step_of_adamw_finite():
    dead = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([dead], 0.1)
    for _ in range(2):
        (after,), (slope,) = optimizer_step(optimizer, [dead], [torch.zeros(3)])
        assert torch.isfinite(after).all()
        assert torch.isfinite(slope).all()
        dead.grad = torch.zeros(3)
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "options"),
    [(torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "lr": 0.1})],
)
def test_trusted_refuses_an_optimiser_whose_step_it_does_not_know(kind, options):
    student = Student()
    with pytest.raises(ArgumentError, match=f"The optimiser is {kind.__name__}.*knows the steps"):
        optimizer_step(kind(student.parameters(), **options), [], [])


def test_trusted_leaves_out_a_term_that_is_zero():
    world = World()
    weighting = world.weighting("trusted", prior=RATIO, every=1)
    for _ in range(3):
        losses, features = world.losses()
        losses["nckd"] = losses["nckd"] * 0
        weighting(losses, features)
    weights = floats(weighting)
    assert weights["nckd"] == 0
    assert sum(weights.values()) == pytest.approx(3.3), "Σ of the given weights of the others"
    assert weighting.sums[2].tolist() == pytest.approx([2.71, 2.71, 0, 2.71])
    assert weighting.signal()[2] == -1


@pytest.mark.parametrize("strategy", ["meta", "trusted"])
def test_rows_without_a_label_do_no_harm(strategy):
    world = World(dtype=torch.float32)
    targets = teacher_targets(copy.deepcopy(world.student), world.inputs)
    weighting = world.weighting(strategy).float()
    objective = Distiller(world.student, targets, weighting, heads=2, channels=CHANNELS)
    target = world.target.clone()
    target[::3] = -1
    total, _ = objective.train()(Batch(world.inputs, target, torch.arange(12)))
    total.backward()
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert objective.weigh.step == 1
    if strategy == "trusted":
        assert objective.weigh.sums[2].min() == 1


def test_trusted_goes_on_where_it_stopped():
    world = World()
    weighting, resumed = (vary(world.weighting("trusted", every=2)) for _ in range(2))
    for _ in range(5):
        weighting(*world.losses())
    resumed.load_state_dict(copy.deepcopy(weighting.state_dict()))
    for _ in range(3):
        for one in (weighting, resumed):
            one.zero_grad()
            one(*world.losses()).backward()
        assert floats(weighting) == floats(resumed)
        assert torch.equal(weighting.sums, resumed.sums)
        for a, b in zip(weighting.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kappa": -1.0}, "kappa must be 0 or more"),
        ({"memory": 1.0}, "memory between 0 and 1"),
        ({"low": 3.0}, "low below high"),
        ({"prior": {"feature": -1.0}}, "each weight must be 0 or more and one above 0"),
        ({"prior": {"kd": 1.0}}, "one above 0"),
    ],
)
def test_trusted_refuses_impossible_options(options, said):
    with pytest.raises(ArgumentError, match=said):
        World().weighting("trusted", **options)


# By name


def test_strategies_by_name():
    kinds = (Fixed, Published, Naive, Uncertainty, Meta, Trusted)
    for name, kind in zip(
        ("fixed", "published", "naive", "uncertainty", "meta", "trusted"), kinds, strict=True
    ):
        weighting = World().weighting(name)
        assert type(weighting) is kind
        assert weighting.sigmoid == (name in ("published", "naive"))
        assert weighting.weights == {}


def test_an_unknown_strategy_offers_the_nearest():
    with pytest.raises(RecipeError, match="the nearest name is uncertainty"):
        Recipe(weighting="uncertanty")
    with pytest.raises(RecipeError, match="choose from fixed, "):
        Recipe(weighting="xyz")


def test_a_recipe_makes_its_strategy():
    world, shape = World(), Shape(CHANNELS, POSITIONS, CLASSES)
    recipe = Recipe(weighting="meta", meta_share=0.1, meta_every=7, terms={"kd": 1.0})
    made = make_weighting(recipe, shape, world.student, lambda: world.meta)
    assert type(made) is Meta
    assert made.terms == (*TERMS, "kd")
    assert (made.learning_rate, made.every, made.rate) == (recipe.learning_rate, 7, 7.0)
    trusted = make_weighting(recipe.replace(weighting="trusted"), shape, world.student, None)
    assert type(trusted) is Trusted
    assert (trusted.learning_rate, trusted.every) == (recipe.learning_rate, 7)
    assert trusted.prior.tolist() == pytest.approx([1.0, 0.3, 0.3, 1.0, 1.0])
    fixed = make_weighting(recipe.replace(weighting="fixed"), shape, world.student, None)
    assert fixed.values.tolist() == pytest.approx([1.0, 0.3, 0.3, 1.0, 1.0])


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ArgumentError, match="sigmoids have no fixed sum"):
        Published(8, 6, total=4)
    with pytest.raises(ArgumentError, match="every is 0"):
        Meta(8, 6, Student(), lambda: None, 0.1, every=0)


# Collapse


@pytest.mark.parametrize(
    ("weights", "sigmoid", "named"),
    [
        ((1.0, 1.0, 1.0, 1.0), False, ""),
        ((0.5, 0.5, 0.5, 0.5), True, ""),
        ((3.0, 0.9, 0.06, 0.04), False, ""),
        ((1.5, 1.5, 0.0, 1.0), False, ""),  # dropped, not starved
        ((0.0, 0.0, 0.0, 1.0), False, ""),  # one term alone is a choice
        ((1.5, 1.47, 0.03, 1.0), False, "nckd"),
        ((3.97, 0.01, 0.01, 0.01), False, "feature has 99"),
        ((9e-4, 1e-4, 5e-4, 4e-4), True, "saturated"),
        ((0.9995, 0.9999, 1.0, 0.9999), True, "saturated"),
        ((9e-4, 1e-4, 5e-4, 4e-4), False, ""),
        ((0.0, 0.0, 0.0, 0.0), True, "saturated"),
        ((1.0, math.nan, 1.0, 1.0), False, "finite"),
    ],
)
def test_collapse_is_named(weights, sigmoid, named):
    said = collapse(dict(zip(TERMS, weights, strict=True)), sigmoid=sigmoid)
    assert (named in said) if named else said == ""


def test_what_counts_as_starved_is_a_choice():
    weights = dict(zip(TERMS, (1.5, 1.4, 0.1, 1.0), strict=True))
    assert collapse(weights) == ""
    assert "nckd (2.5%)" in collapse(weights, low=0.05)


# The meta gradient by one forward-mode pass


def distilled(dtype=torch.float64, dropout=0.0):
    """A small student with its real losses: (losses, weights, student, meta batch, answer)."""
    with seeded(5):
        teacher, student = resnet1d(10, 6, 1 / 8), resnet1d(10, 6, 1 / 16, dropout=dropout)
        inputs, meta = torch.rand(2, 12, 600, dtype=dtype).unbind()
        targets = teacher_targets(teacher.to(dtype), inputs)
        targets = targets._replace(
            features=targets.features.to(dtype), logits=targets.logits.to(dtype)
        )
        objective = Distiller(student.to(dtype), targets, EQUAL).to(dtype).train()
        objective.weigh = Listener().to(dtype)
        target = torch.arange(12) % 6
        objective(Batch(inputs, target, torch.arange(12)))
    losses = [objective.weigh.losses[term] for term in TERMS]
    weights = torch.tensor([0.5, 1.5, 0.7, 1.3], dtype=dtype)
    return losses, weights, student, (meta, target.flip(0)), objective.weigh.answer


class Listener(Fixed):
    def __init__(self):
        super().__init__(EQUAL)

    def forward(self, losses, features, logits, inputs):
        self.losses, self.answer = losses, (inputs, features, logits)
        return super().forward(losses, features)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_one_forward_mode_pass_gives_what_a_backward_pass_for_each_term_gives(
    dtype, error, monkeypatch
):
    losses, weights, student, meta, answer = distilled(dtype)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    slow = meta_gradient(losses, weights, student, *meta, 0.05)
    monkeypatch.setattr(meta_module, "_dot", counted(meta_module._dot, calls := []))
    fast = meta_gradient(losses, weights, student, *meta, 0.05, answer)
    assert [len(ones) for ones, _ in calls] == [2] * 4, "features and logits, not 30 parameters"
    torch.testing.assert_close(fast, slow, rtol=error, atol=error * slow.abs().max().item())
    assert slow.abs().min() > 0
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert not any(p.grad is not None for p in student.parameters())
    torch.stack(losses).sum().backward()  # the training step's own pass still has its graph


def counted(function, calls):
    def spy(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return spy


def test_where_dropout_would_answer_otherwise_each_term_has_its_backward_pass():
    losses, weights, student, meta, answer = distilled(dropout=0.5)
    assert not _drops_out(student.eval())
    student.train()
    found = []
    for again in (answer, None):
        with seeded(0):  # the meta batch meets the same mask
            found.append(meta_gradient(losses, weights, student, *meta, 0.05, again))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_the_distiller_gives_meta_what_its_losses_come_from(monkeypatch):
    asked = []

    def spy(losses, weights, student, inputs, target, rate, answer):
        asked.append(answer)
        return torch.ones(4)

    monkeypatch.setattr(meta_module, "meta_gradient", spy)
    with seeded(0):
        teacher, student = resnet1d(10, 6, 1 / 8), resnet1d(10, 6, 1 / 16, dropout=0.0)
    batch = Batch(torch.rand(8, 300), torch.arange(8) % 6, torch.arange(8))
    meta = Meta(student.feature_channels, 9, student, lambda: batch[:2], 0.1, every=2)
    objective = Distiller(student, teacher_targets(teacher, batch.inputs), meta).train()
    for _ in range(4):
        objective(batch)
    assert len(asked) == 2
    for inputs, features, logits in asked:
        assert inputs is batch.inputs
        assert features.shape == (8, student.feature_channels, 9)
        assert logits.shape == (8, 6)
        assert features.requires_grad


@pytest.mark.parametrize("weighting", ["fixed", "meta", "uncertainty"])
def test_a_chain_trains_in_bf16_with_parameters_in_float32(weighting, tiny_recordings, tiny_recipe):
    recipe = tiny_recipe.replace(
        precision="bf16-mixed", weighting=weighting, meta_share=0.2, meta_every=2
    )
    chain = distill_chain(tiny_recordings, recipe, progress=False)
    history = chain.history()
    assert np.isfinite(history["total"]).all()
    for stage in chain.stages.values():
        assert all(p.dtype == torch.float32 for p in stage.network.parameters())
        assert (stage.fit.history["cross_entropy"].diff().dropna() < 0.1).all()
    full = distill_chain(tiny_recordings, recipe.replace(precision="32-true"), progress=False)
    closeness = np.abs(history["cross_entropy"] - full.history()["cross_entropy"])
    assert 0 < closeness.max() < 0.2, "rounded otherwise, but the same training"
