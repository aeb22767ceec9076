"""One training on several devices: each rank, a process, takes a part of every batch.

Every network that learns answers for its rank's part, and the answers of all ranks are gathered.
The loss is that of the whole batch on every rank, so that any term, a weighting and unlabelled rows
mean the same as in one process, a term that compares the samples of a batch among them. Batch norm
takes its statistics from the whole batch. Gradients are averaged, so that all ranks keep the same
weights. The order of the rows and the meta batches are the same on all ranks; dropout and
augmentation draw from a seed for each rank and epoch.
"""

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from hfld_lite.data.examples import Samples, Stored, batches
from hfld_lite.data.splits import Split
from hfld_lite.distillation import Objective
from hfld_lite.errors import ArgumentError, HfldError, Interrupted, nearest
from hfld_lite.hierarchy import TRAINERS, Chain, Data, Stage, Targets, Trainer, distill_chain
from hfld_lite.losses import at_least_float32
from hfld_lite.networks import Output
from hfld_lite.recipes import Recipe
from hfld_lite.storage import ranks
from hfld_lite.storage.checkpoints import StageCheckpoints
from hfld_lite.storage.files import digest
from hfld_lite.storage.history import Fit
from hfld_lite.storage.randomness import derive_seed
from hfld_lite.teachers import LiveTeacher, cache_key
from hfld_lite.training import fit

STRATEGIES = ("ddp",)
"""How one training is divided; the only way so far is by the rows of each batch."""

_GUARD = 'Each process reads the program again: put what trains below if __name__ == "__main__"'

JOB, RESULT, LEADER, FAILED = "job", "result", "leader", "failed"
"""Files by which the command and its ranks talk: what to train, the stages, rank 0's process
number, and the error of each rank that failed."""


def available() -> tuple[str, int]:
    """The kind of device that would train, and how many there are."""
    if torch.cuda.is_available():
        return "GPU", torch.cuda.device_count()
    own = psutil.Process()
    return "CPU core", len(own.cpu_affinity()) if hasattr(own, "cpu_affinity") else os.cpu_count()


def check_devices(devices: int, strategy: str = "ddp", behaviour: str = "sound") -> None:
    """Refuse a number of devices that cannot train together here, by an ArgumentError."""
    if strategy not in STRATEGIES:
        raise ArgumentError(f"strategy is {strategy!r}; {nearest(strategy, STRATEGIES)}.")
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise ArgumentError(f"devices is {devices!r}; it must be a whole number, 1 or more.")
    kind, most = available()
    if devices > most:
        many = f"are {most} {kind}s" if most > 1 else f"is one {kind}"
        raise ArgumentError(f"devices is {devices}, and there {many} here; take {most} at most.")
    if devices > 1 and behaviour != "sound":
        raise ArgumentError(
            f"The recipe's behaviour {behaviour!r} trains on one device only; leave devices out, "
            "or choose the behaviour 'sound'."
        )


def check_parts(devices: int, recipe: Recipe, count: int) -> None:
    """Refuse batches that do not make equal parts; ``count`` samples are trained on."""
    size = min(recipe.batch(count), count)
    if size % devices or size // devices < 2 <= devices:
        near = max(2 * devices, round(size / devices) * devices)
        raise ArgumentError(
            f"Batches of {size} do not make {devices} equal parts of 2 or more; take a batch_size "
            f"that does, such as {near} (hfld train: --batch-size {near})."
        )


def said_of_devices(devices: int) -> str:
    """Where a training runs, in words: ``2 GPUs`` or ``2 CPU processes``."""
    return f"{devices} GPUs" if available()[0] == "GPU" else f"{devices} CPU processes"


def on_devices(
    devices: int,
    strategy: str,
    data: Data,
    recipe: Recipe,
    parts: Split | None,
    controls: Sequence[str],
    options: dict[str, Any],
) -> Chain:
    """Train a chain as :func:`~hfld_lite.hierarchy.distill_chain` does, on several devices.

    This process checks everything and starts the ranks, which get copies of the data. Rank 0 alone
    writes checkpoints, shows bars and calls ``on_epoch``, in its own process. The error of any rank
    ends all of them; so does the end of this process, however it ends.

    Args:
        devices, strategy: how many, and how they divide the training, a name in STRATEGIES.
        data, recipe, parts, controls: as `distill_chain` gets them.
        options: others of :class:`~hfld_lite.hierarchy.Trainer`, and ``prepare``, called first in
            each rank, such as what registers a loss of the user's.

    Raises:
        ArgumentError: if there are fewer devices, the batches cannot be divided, or something that
            is given cannot be sent to another process.
        HfldError, Interrupted: as `distill_chain`; or if a rank was killed.
    """
    check_devices(devices, strategy, recipe.behaviour)
    if hasattr(sys, "ps1"):
        raise ArgumentError(
            f"devices is {devices}, and a notebook or a Python prompt trains on one device; write "
            "a program, or use the command `hfld train`."
        )
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ArgumentError(f"{_GUARD}.")
    prepare = options.pop("prepare", None)
    options["trained"] = tuple(options.get("trained", ()))  # keys of a dict cannot be sent
    own = {"folder": None, "resume": False, "on_epoch": None}
    trainer = Trainer(data, recipe, parts, **{**options, **own})
    check_parts(devices, recipe, len(trainer.train.inputs))
    if options.get("progress", True):
        size = min(recipe.batch(len(trainer.train.inputs)), len(trainer.train.inputs))
        each = f"each takes {size // devices} of the {size} inputs of a step"
        print(f"training on {said_of_devices(devices)}: {each}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hfld_") as name:
        folder = Path(name)
        modes = {"anomaly": torch.is_anomaly_enabled()}
        _write(folder / JOB, (data, recipe, trainer.parts, tuple(controls), dict(options), modes))
        kind = "cuda" if available()[0] == "GPU" else "cpu"
        fabric = Fabric(
            accelerator=kind,
            devices=devices,
            strategy=ByParts(start_method="spawn"),
            precision=recipe.precision,
            plugins=[LightningEnvironment()],  # whatever cluster this process may be part of
        )
        _launch(fabric, folder, prepare)
        stages = pickle.loads((folder / RESULT).read_bytes())
    return Chain(recipe, stages, trainer.parts, trainer.examples, frozenset(trainer.networks))


class ByParts(DDPStrategy):
    """Fabric's processes and their group; gradients are averaged once they are complete.

    torch's own wrapper averages them in buckets of an order that it changes after the first step,
    so that a resumed training of three or more ranks would differ in some bits.
    """

    def setup_environment(self) -> None:
        """Join the group, without the usual banner."""
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        super().setup_environment()

    def setup_module(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        self.module = module
        return module

    def backward(self, tensor: Tensor, *args: Any, **options: Any) -> None:
        """Gradients of the mean over the ranks."""
        super().backward(tensor, *args, **options)
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        torch._foreach_copy_(gradients, ranks.averaged(gradients))


class Dealt(Stored):
    """Inputs of which a rank reads its part of each batch; rows stay those of the whole batch.

    ``count`` is the number of rows of the whole batch that was read last.
    """

    def __init__(self, inputs: Tensor | Stored) -> None:
        self.inputs, self.count = inputs, 0

    @cached_property
    def digest(self) -> str:
        """Of the values, as cached answers of a teacher are known by."""
        return cache_key(nn.Module(), self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """This rank's part of the inputs at these places."""
        return self.inputs[ranks.own(rows)]

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows of one batch after the other, and this rank's part of the inputs."""
        parts = batches(self.inputs, [ranks.own(rows) for rows in order])
        for rows, (_, inputs) in zip(order, parts, strict=True):
            self.count = len(rows)
            yield rows, inputs


def dealt(samples: Samples) -> Samples:
    """Samples of whose inputs each rank reads its part."""
    return Samples(Dealt(samples.inputs), samples.target)


class RankTrainer(Trainer):
    """What each rank does: a training of the whole chain, with its part of each batch."""

    def __post_init__(self) -> None:
        """Divide what is trained on."""
        super().__post_init__()
        self.train, self.meta, self.fit = dealt(self.train), dealt(self.meta), fit_part
        self._signals = None if self._signals is None else dealt(self._signals)

    def targets(self, stage: str) -> Targets:
        """What a trained stage says: computed by parts, and kept in whole by each rank."""
        with by_parts(self.stages[stage].network, self.train.inputs):
            return super().targets(stage)


def fit_part(
    objective: Objective,
    train: Samples,
    validation: Samples,
    recipe: Recipe,
    epochs: int,
    *,
    seed: int,
    before_epoch: Callable[[torch.optim.Optimizer, int], None] | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    checkpoints: StageCheckpoints | None = None,
    **options: Any,
) -> Fit:
    """`training.fit` in one of several ranks, with ``train`` dealt to them.

    Raises:
        HfldError: as `training.fit`, or if the ranks end with different weights.
    """
    rank, device = ranks.fabric.global_rank, ranks.fabric.device
    generator = torch.Generator(device)

    def begin(optimizer: torch.optim.Optimizer, left: int) -> None:
        if before_epoch:
            before_epoch(optimizer, left)
        # By epoch, so that a checkpoint need not hold the states of all ranks.
        torch.manual_seed(derive_seed(seed, f"dropout of rank {rank}, {left} left"))
        generator.manual_seed(derive_seed(seed, f"augmentation of rank {rank}, {left} left"))

    kept = ranks.fabric.broadcast(checkpoints is not None)
    validation = dealt(validation.to(device))
    with ExitStack() as stack:
        stack.enter_context(by_parts(objective.student, validation.inputs))
        for targets in objective.answers_from:
            if isinstance(targets, LiveTeacher):
                stack.enter_context(by_parts(targets.teacher, train.inputs))
        done = fit(
            objective,
            train,
            validation,
            recipe,
            epochs,
            seed=seed,
            before_epoch=begin,
            augment=augment and (lambda inputs, _: augment(inputs, generator)),
            checkpoints=_Shared(checkpoints) if kept else None,
            **options,
        )
    found = dict(objective.named_parameters()) | dict(objective.student.named_buffers())
    if not ranks.alike(digest("", found)):
        raise HfldError(
            "The devices ended with different weights, so that this training cannot be relied on; "
            "train on one device."
        )
    return done


class _Shared:
    """A stage's checkpoints, which rank 0 alone reads and writes."""

    def __init__(self, checkpoints: StageCheckpoints | None) -> None:
        self.checkpoints = checkpoints

    def load(self) -> dict[str, Any] | None:
        return ranks.fabric.broadcast(self.checkpoints and self.checkpoints.load())

    def save(self, state: Mapping[str, Any], epoch: int, finished: bool) -> None:
        if self.checkpoints:
            self.checkpoints.save(state, epoch, finished)

    def kept(self) -> str:
        return self.checkpoints.kept() if self.checkpoints else ""


@contextmanager
def by_parts(network: nn.Module, inputs: Dealt) -> Iterator[None]:
    """Within the block a network that reads a rank's part answers for the whole batch.

    Its names, parameters and buffers stay as they are.

    Args:
        network: gives ``(features, logits)``.
        inputs: what it reads in eval mode: where a batch does not make equal parts, the last
            answers of what was gathered repeat one and are cut off.
    """

    def gather(module: nn.Module, _args: tuple, output: tuple[Tensor, Tensor]) -> Output:
        most = None if module.training else inputs.count
        return Output(*(ranks.gathered(x)[:most] for x in output))

    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    handle = network.register_forward_hook(gather)
    for norm in norms:
        norm.forward = partial(_normalised, norm)
    try:
        yield
    finally:
        handle.remove()
        for norm in norms:
            del norm.forward


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Batch norm whose mean and variance are those of all ranks' parts, as many rows each.

    torch's own for several processes works on GPUs only and has no forward-mode derivative.
    """
    if not norm.training and norm.running_mean is not None:
        return type(norm).forward(norm, x)
    y, mean, variance = _Normalise.apply(x, norm.weight, norm.bias, norm.eps)
    if norm.training and norm.running_mean is not None:
        norm.num_batches_tracked.add_(1)
        known, count = norm.momentum, ranks.count() * x.numel() // x.shape[1]
        rate = 1 / float(norm.num_batches_tracked) if known is None else known
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
        norm.running_var.lerp_(variance.to(norm.running_var.dtype) * (count / (count - 1)), rate)
    return y


class _Normalise(torch.autograd.Function):
    """``y = (x − m) / √(v + ε) · w + b`` and m, v, of a batch of which each rank has a part.

    With m_r and v_r a rank's mean and variance, m = mean of m_r and v = mean of v_r + (m_r − m)².
    Written with torch's own kernels for given m and v: as a sum of differentiable operations it
    took half as long again as a whole step.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        axes = [0, *range(2, x.ndim)]
        read = at_least_float32(x)
        if x.device.type == "cpu":  # the same, but there var_mean takes three times as long
            local = torch.stack(torch.batch_norm_update_stats(read, None, None, 0.0))
        else:
            local = torch.stack(torch.var_mean(read, axes, correction=0)[::-1])
        means, variances = ranks.gathered(local[None]).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        y = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.save_for_forward(x, weight, mean, variance)
        ctx.axes, ctx.eps, ctx.count = axes, eps, ranks.count() * x.numel() // x.shape[1]
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_none: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        given = (gradient, x, weight, mean, variance, mean, inverse, False, ctx.eps, [True] * 3)
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(*given)
        # The rest is what x does to m and v: of all ranks' gradients.
        along, total = ranks.summed(torch.stack([of_weight, of_bias])) / ctx.count
        scale = inverse if weight is None else inverse * weight
        slope = scale * inverse * along
        shift = scale * total - slope * mean
        shape = [-1, *[1] * (x.ndim - 2)]
        of_x = of_x - torch.addcmul(shift.view(shape), x, slope.view(shape)).to(of_x.dtype)
        needed = (of_x, None if weight is None else of_weight, of_bias, None)
        return tuple(
            g if want else None for g, want in zip(needed, ctx.needs_input_grad, strict=True)
        )

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor, w_t: Tensor | None, b_t: Tensor | None, _eps: None) -> tuple:
        x, weight, mean, variance = ctx.saved_tensors
        shape, x_t = [-1, *[1] * (x.ndim - 2)], torch.zeros_like(x) if x_t is None else x_t
        inverse = (variance + ctx.eps).rsqrt().view(shape)
        normal = (x - mean.view(shape)) * inverse
        local = torch.stack([x_t.mean(ctx.axes), (x_t * normal).mean(ctx.axes)])
        of_mean, along = (value.view(shape) for value in ranks.gathered(local[None]).mean(0))
        y_t = (x_t - of_mean - normal * along) * inverse
        if weight is not None:
            y_t = y_t * weight.view(shape)
        if w_t is not None:
            y_t = y_t + normal * w_t.view(shape)
        return (y_t if b_t is None else y_t + b_t.view(shape)), None, None


# The processes


def _write(path: Path, job: tuple) -> None:
    try:
        with path.open("wb") as file:
            pickle.dump(job, file, pickle.HIGHEST_PROTOCOL)
    except OSError:
        raise
    except Exception as error:  # pickle raises whatever the objects' own methods raise
        raise ArgumentError(
            f"Something that was given cannot be sent to the processes of several devices "
            f"({_first_line(error)}); define classes and functions at the top of a module, or "
            "train on one device."
        ) from error


def _launch(fabric: Fabric, folder: Path, prepare: Callable[[], None] | None) -> None:
    """Start the ranks and wait for them; raise the error of the first that failed."""
    others = multiprocessing.active_children()
    log, before = logging.getLogger("torch.multiprocessing.spawn"), os.environ.copy()
    level = log.level
    log.setLevel(logging.ERROR)  # that it ends the other ranks
    try:
        with _interrupts_to(folder):
            fabric.launch(_train, str(folder), pickle.dumps(prepare))
    except ProcessException as error:
        raise _first_error(folder, error) from None
    finally:
        log.setLevel(level)
        for name in set(os.environ) - set(before):  # the group's port: each training has its own
            del os.environ[name]
        for child in multiprocessing.active_children():
            if child not in others:
                child.kill()


@contextmanager
def _interrupts_to(folder: Path) -> Iterator[None]:
    """Send Ctrl-C to rank 0, which says what is kept; the ranks do not get it from the terminal."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not main or before in (None, signal.SIG_IGN):
        yield
        return

    def send(_number: int, _frame: object) -> None:
        try:
            os.kill(int((folder / LEADER).read_text()), signal.SIGINT)
        except (OSError, ValueError):  # it has not begun, or has ended
            raise KeyboardInterrupt from None

    signal.signal(signal.SIGINT, send)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _first_error(folder: Path, error: ProcessException) -> BaseException:
    """What ended the ranks, as it would have been raised here."""
    files = sorted(folder.glob(f"{FAILED}-*"), key=lambda path: path.stat().st_mtime_ns)
    found = [pickle.loads(file.read_bytes()) for file in files]
    meant = [pair for pair in found if isinstance(pair[0], HfldError | KeyboardInterrupt)]
    killed = isinstance(error, ProcessExitedException) and error.exit_code < 0
    if found and (meant or not killed):
        first, cause = (meant or found)[0]
        first.__cause__ = cause
        return first
    if killed:
        return HfldError(
            f"A process of the training was ended by {error.signal_name}, often by the system "
            "where memory runs out; a smaller batch_size or fewer devices need less."
        )
    said = _first_line(error)
    return HfldError(f"The processes of several devices did not start ({said}). {_GUARD}.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if isinstance(error, ProcessException) else lines[0]


def _train(fabric: Fabric, folder: str, prepare: bytes) -> None:
    """Train as one of the ranks; runs in a process of its own."""
    rank, place = fabric.global_rank, Path(folder)
    threading.Thread(target=_end_with_parent, args=(place,), daemon=True).start()
    if own_session := getattr(os, "setsid", None):  # so that Ctrl-C reaches the command alone
        own_session()
    tqdm.set_lock(threading.RLock())  # its own, for several processes, would be left at a kill
    if rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        warnings.simplefilter("ignore")
    else:
        warnings.showwarning = lambda said, *_where, **_how: print(f"note: {said}", file=sys.stderr)
        (place / LEADER).write_text(str(os.getpid()))
    try:
        stages = _stages(fabric, place, prepare)
        if not rank:
            (place / RESULT).write_bytes(pickle.dumps(stages, pickle.HIGHEST_PROTOCOL))
        fabric.barrier()
    except BaseException as error:
        _tell(place / f"{FAILED}-{rank}", error)
        sys.stdout.flush()
        os._exit(1)  # at once: the others wait for this one
    torch.distributed.destroy_process_group()


def _stages(fabric: Fabric, place: Path, prepare: bytes) -> dict[str, Stage]:
    ranks.fabric = fabric
    if first := pickle.loads(prepare):
        first()
    try:
        job = pickle.loads((place / JOB).read_bytes())
    except (AttributeError, ImportError) as error:
        raise ArgumentError(
            f"Something that was given is unknown in the processes of several devices "
            f"({_first_line(error)}); define it in a module that can be imported, or train on one "
            "device."
        ) from error
    data, recipe, parts, controls, options, modes = job
    torch.autograd.set_detect_anomaly(modes["anomaly"])
    if fabric.global_rank:
        options |= {"folder": None, "resume": False, "on_epoch": None, "progress": False}
    TRAINERS[recipe.behaviour] = RankTrainer  # in this process, which trains nothing else
    return distill_chain(data, recipe, parts, controls=controls, **options).stages


def _tell(path: Path, error: BaseException) -> None:
    """Leave an error for the process that started the ranks."""
    if not isinstance(error, HfldError | Interrupted):
        error.add_note("".join(traceback.format_exception(error)))
    for pair in ((error, error.__cause__), (error, None)):
        with suppress(Exception):  # an error of the user's may hold what cannot be sent
            content = pickle.dumps(pair)
            pickle.loads(content)
            half = path.with_name(f"half-{path.name}")
            half.write_bytes(content)
            os.replace(half, path)
            return
    path.write_bytes(pickle.dumps((HfldError(f"{type(error).__name__}: {error}"), None)))


def _end_with_parent(place: Path) -> None:
    """End this process when the one that started it ends, also by a signal that kills it."""
    multiprocessing.parent_process().join()
    shutil.rmtree(place, ignore_errors=True)
    os._exit(1)
