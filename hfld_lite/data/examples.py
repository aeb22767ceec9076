"""What a chain learns from: inputs, classes and groups, made of recordings or of any dataset."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hfld_lite.data.augmentation import augment, check_shift
from hfld_lite.data.names import refuse_twins, tidy
from hfld_lite.data.recordings import UNLABELLED, Recordings
from hfld_lite.data.splits import Split, split
from hfld_lite.data.views import network_inputs
from hfld_lite.errors import ArgumentError, DataError
from hfld_lite.storage.arrays import Chosen, choose, let_go
from hfld_lite.storage.files import digest
from hfld_lite.storage.progress import bar

MEMORY_SHARE = 0.25
"""Share of the machine's memory that inputs may take; above it they are read step by step."""


class Stored:
    """Inputs that stay in their dataset and are read a batch at a time.

    Args:
        dataset: gives ``(x, …)`` by index.
        rows: which of its items these are, in order.
        workers: processes that read ahead; 0 reads in this one.
        digest: of the dataset's values.
    """

    def __init__(self, dataset: Dataset, rows: np.ndarray, workers: int, digest: str) -> None:
        self.dataset, self.rows, self.workers = dataset, rows, workers
        self.digest = sha256(f"{digest} {rows.tolist()}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The inputs at these places, stacked."""
        return next(inputs for _, inputs in self.batches([rows]))

    def batches(self, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and inputs of one batch after the other."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=[self.rows[rows.cpu().numpy()].tolist() for rows in order],
            num_workers=self.workers,
            collate_fn=_stacked,
            generator=torch.Generator(),  # its own: it draws from the global one, as dropout does
        )
        for rows, inputs in zip(order, loader, strict=True):
            yield rows, inputs.to(rows.device)


def batches(inputs: Tensor | Stored, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and inputs of one batch after the other, from memory or from a dataset."""
    if isinstance(inputs, Stored):
        return inputs.batches(order)
    return ((rows, inputs[rows.to(inputs.device)]) for rows in order)


class Samples(NamedTuple):
    """Network inputs ``(n, …)``, in memory or stored, and their classes, int64 ``(n,)``."""

    inputs: Tensor | Stored
    target: Tensor

    def to(self, device: torch.device) -> Samples:
        """The same on a device; stored inputs follow batch by batch."""
        inputs = self.inputs if isinstance(self.inputs, Stored) else self.inputs.to(device)
        return Samples(inputs, self.target.to(device))

    def stream(self, size: int, generator: torch.Generator) -> Callable[[], Samples]:
        """A function that draws a batch with replacement at each call."""

        def draw() -> Samples:
            rows = torch.randint(len(self.inputs), (size,), generator=generator)
            rows = rows.to(self.target.device)
            return Samples(self.inputs[rows], self.target[rows])

        return draw


IMBALANCE = 3.0
"""Classes are drawn equally often if one has more than so many times as many as another."""


def shuffle(
    target: Tensor,
    generator: torch.Generator,
    balance: bool = False,
    size: int = 1,
    unlabelled: float = 0.0,
) -> Tensor:
    """Rows for one pass, int64 ``(n,)`` on the CPU: all of them in a new order.

    With ``balance`` and classes that differ by more than IMBALANCE, rows are drawn with
    replacement, each class with the same probability.

    Where labels are missing, n rows are drawn so that each batch of ``size`` holds the same number
    of unlabelled rows, the share ``unlabelled``, rounded, and one labelled row at least. Either
    kind comes in one new order after the other, as often as needed: a pass has as many steps
    whatever the share, which 0 makes a pass over labelled rows alone.

    Args:
        target: int64 ``(n,)``, UNLABELLED where the class is not known.
        generator: draws the order.
        balance: as above.
        size: of a batch.
        unlabelled: from 0 to below 1.
    """
    known = (target.cpu() != UNLABELLED).nonzero().squeeze(1)
    n = len(target)
    size = min(size, n)  # else the one batch could hold no labelled row
    if len(known) < n:
        rest = (target.cpu() == UNLABELLED).nonzero().squeeze(1)
        free, steps = min(size - 1, round(unlabelled * size)), -(-n // size)
        drawn = [
            _stream(rest, steps * free, generator).view(steps, free),
            _stream(known, steps * (size - free), generator, target, balance).view(steps, -1),
        ]
        return torch.cat(drawn, 1).flatten()[:n]
    return _stream(known, n, generator, target, balance)


def _stream(
    rows: Tensor,
    count: int,
    generator: torch.Generator,
    target: Tensor | None = None,
    balance: bool = False,
) -> Tensor:
    """As many of the rows as asked for: one new order after the other, or balanced by class."""
    if balance:
        counts = target[rows].cpu().bincount()
        if counts.max() > IMBALANCE * counts[counts > 0].min():
            chances = 1 / counts[target[rows].cpu()]
            return rows[torch.multinomial(chances, count, replacement=True, generator=generator)]
    passes = [torch.randperm(len(rows), generator=generator) for _ in range(-(-count // len(rows)))]
    return rows[torch.cat([*passes, torch.empty(0, dtype=torch.int64)])[:count]]


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and each back in its own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Shape(NamedTuple):
    """What a network gives for one input: channels and positions of its features, classes."""

    channels: int
    positions: int
    classes: int


def _train_once(network: nn.Module, inputs: Tensor, said: str) -> None:
    """A forward and a backward pass of a copy in training mode; its gradients are thrown away.

    Raises:
        ArgumentError: if it fails: then it fails before hours of training, not after.
    """
    try:
        copied = copy.deepcopy(network).train()
        with torch.random.fork_rng(), torch.enable_grad():
            features, logits = copied(torch.cat([inputs, inputs, inputs]))
            total = features.float().sum() + logits.float().sum()
            if not total.requires_grad:
                raise ValueError("none of its parameters can be trained")
            total.backward()
    except Exception as error:  # whatever a network of the user's raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ArgumentError(f"{said} fails in a training step: {reason}.") from error


def probe(network: nn.Module, inputs: Tensor, name: str = "network") -> Shape:
    """Run a network once, in eval mode and without gradients, and check what it returns.

    Args:
        network: left as it was found.
        inputs: a batch of what it shall read.
        name: for errors, such as ``"network given as teacher"``.

    Raises:
        ArgumentError: if the network fails on such inputs, returns no Output, or no
            position is left of its features.
    """
    said = f"The {name} ({type(network).__name__})"
    if any(isinstance(p, nn.parameter.UninitializedTensorMixin) for p in network.parameters()):
        raise ArgumentError(f"{said} has lazy layers; call it once on a batch before.")
    try:
        with evaluated(network), torch.no_grad():
            output = network(inputs)
    except ArgumentError:
        raise
    except Exception as error:  # whatever a network of the user's raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ArgumentError(
            f"{said} cannot read inputs of shape {tuple(inputs.shape)}: {reason}"
        ) from error
    if not isinstance(output, tuple) or len(output) != 2:
        raise ArgumentError(
            f"{said} returns {_kind(output)}; it must return Output(features, logits). Wrap a "
            'network that returns logits: adapt(network, features="name.of.a.layer").'
        )
    features, logits = output
    if not isinstance(features, Tensor) or features.ndim < 3 or not isinstance(logits, Tensor):
        raise ArgumentError(
            f"{said} returns features that are {_kind(features)}; they must be a tensor (batch, "
            "channels, positions…)."
        )
    positions = features.shape[2:].numel()
    if not features.numel() or logits.ndim != 2 or len(logits) != len(inputs):
        raise ArgumentError(
            f"{said} gives features of shape {tuple(features.shape)} and logits of shape "
            f"{tuple(logits.shape)} for inputs of shape {tuple(inputs.shape)}; it must leave a "
            "position or more, and logits (batch, classes). Use larger inputs or tap an earlier "
            "layer."
        )
    return Shape(features.shape[1], positions, logits.shape[1])


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs with classes and groups; made by :meth:`of`.

    Attributes:
        inputs: all of them, ``(n, …)``, or None where they stay in ``dataset``.
        dataset: gives ``(x, y, …)`` by index, where inputs are not in memory.
        labels: int64 ``(n,)``, UNLABELLED where not known; groups, origins: str ``(n,)``.
        recordings: what the inputs were made of, if it was recordings.
        fingerprint: digest of all values, to tell whether data are those of a training.
    """

    inputs: Tensor | None
    dataset: Dataset | None
    labels: np.ndarray
    groups: np.ndarray
    origins: np.ndarray
    class_names: tuple[str, ...]
    normal_classes: tuple[str, ...]
    source: str
    fingerprint: str
    recipe: Any
    recordings: Recordings | None = None
    workers: int = 0
    shape: tuple[int, ...] = field(default=())

    @classmethod
    def of(
        cls,
        data: Recordings | Dataset,
        recipe: Any,
        in_memory: bool | None = None,
        workers: int = 0,
        progress: bool = False,
    ) -> Examples:
        """Look through the data once, and keep the inputs in memory where they fit.

        Args:
            data: recordings, or a map-style dataset of ``(x, y)`` or ``(x, y, group)``: x of one
                shape, y a whole number from 0, or −1 where the class is not known. Its ``classes``,
                if it has them, are the names; items without a group are a group each.
            recipe: view, samples and bins of recordings.
            in_memory: by default, whether the inputs take less than MEMORY_SHARE of the memory.
            workers: processes that read where inputs are not in memory.
            progress: show a bar while a dataset is read.

        Raises:
            ArgumentError: if the data are of another kind, or cannot be sent to the workers.
            DataError: if an item is not as said; its index is named.
        """
        if isinstance(data, Recordings):
            return cls._of_recordings(data, recipe, in_memory, workers)
        if isinstance(data, IterableDataset):
            raise ArgumentError(
                f"{type(data).__name__} is an IterableDataset; splits and cached answers of a "
                "teacher need items by index, so give a map-style dataset."
            )
        if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            raise ArgumentError(
                f"The data are a {type(data).__name__}; give Recordings, or a dataset with "
                "__len__ and __getitem__ that gives (x, y) or (x, y, group)."
            )
        return cls._of_dataset(data, recipe, in_memory, workers, progress)

    @classmethod
    def _of_recordings(
        cls, data: Recordings, recipe: Any, in_memory: bool | None, workers: int
    ) -> Examples:
        first = network_inputs(data.signals[:1], recipe, data.sample_rate)[0]
        kept = _fits(first, len(data)) if in_memory is None else in_memory
        return cls(
            network_inputs(data.signals, recipe, data.sample_rate) if kept else None,
            None if kept else _Views(data, recipe),
            np.asarray(data.labels),
            data.groups,
            data.origins,
            data.class_names,
            data.normal_classes,
            data.source,
            data.fingerprint(),
            recipe,
            data,
            workers,
            tuple(first.shape),
        )

    @classmethod
    def _of_dataset(
        cls, data: Dataset, recipe: Any, in_memory: bool | None, workers: int, progress: bool
    ) -> Examples:
        where, count = type(data).__name__, len(data)
        if not count:
            raise DataError(where, "it has no items", expected="one or more")
        if workers:
            _check_workers(data, where)
        kept, labels, groups, found = None, [], [], sha256()
        for index in bar(range(count), desc="reading", progress=progress, leave=False):
            x, label, group = _item(data, index, count)
            if not index:
                shape = tuple(x.shape)
                fits = _fits(x, count) if in_memory is None else in_memory
                kept = torch.empty(count, *shape) if fits else None
            if tuple(x.shape) != shape:
                raise DataError(
                    f"{where}[{index}]",
                    f"x has shape {tuple(x.shape)}",
                    expected=f"{shape}, as item 0 has",
                    mend="cut or pad the items to one shape",
                )
            if kept is not None:
                kept[index] = x
            found.update(x.numpy().tobytes())
            found.update(f"{label} {group}\n".encode())
            labels.append(label)
            groups.append(str(index) if group is None else tidy(str(group)))
        for index in {0, count - 1}:
            again = _item(data, index, count)
            if labels[index] != again[1] or not torch.equal(_item(data, index, count)[0], again[0]):
                raise DataError(
                    f"{where}[{index}]",
                    "each reading gives another x or y",
                    expected="the same item at each reading, since a teacher's answers are kept",
                    mend="take random transforms out of the dataset",
                )
        named = [group for index, group in enumerate(groups) if group != str(index)]
        refuse_twins(where, named, "group", "merge them with hfld_lite.data.names.merged")
        names = _class_names(data, labels, where)
        return cls(
            kept,
            None if kept is not None else data,
            np.array(labels, np.int64),
            np.array(groups),
            np.array([f"{where}:{index}" for index in range(count)]),
            names,
            (),
            f"dataset {where}",
            found.hexdigest(),
            recipe,
            None,
            workers,
            shape,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: np.ndarray) -> Examples:
        """The examples at these places; inputs in memory are copied."""
        rows = np.asarray(rows)
        chosen = {
            "labels": self.labels[rows],
            "groups": self.groups[rows],
            "origins": self.origins[rows],
        }
        samples = self.samples(rows)
        stored = isinstance(samples.inputs, Stored)
        values = self.__dict__ | chosen
        values["inputs"] = None if stored else samples.inputs
        values["dataset"] = _Rows(self.dataset, rows) if stored else None
        values["recordings"] = self.recordings.select(rows) if self.recordings else None
        return Examples(**values)

    def samples(self, rows: np.ndarray) -> Samples:
        """What networks read at these places, and the classes."""
        target = torch.from_numpy(self.labels[rows])
        if self.inputs is not None:
            return Samples(self.inputs[rows], target)
        stored = Stored(self.dataset, np.asarray(rows), self.workers, self.fingerprint)
        return Samples(stored, target)

    def everything(self) -> Tensor | Stored:
        """All inputs, in order."""
        return self.samples(np.arange(len(self))).inputs

    def again(self, data: Recordings | Dataset) -> Recordings | Examples:
        """The same data read anew, or a DataError if they are others."""
        found = data if isinstance(data, Recordings) else Examples.of(data, self.recipe)
        same = isinstance(data, Recordings) == (self.recordings is not None)
        mark = found.fingerprint() if isinstance(data, Recordings) else found.fingerprint
        if not same or mark != self.fingerprint:
            raise DataError(
                found.source or "recordings",
                "these are not the data that the chain was trained on, or in another order, so its "
                "test part is unknown",
                mend="give the same data, or use chain.detector.evaluate for other recordings",
            )
        return found

    def try_on(
        self, network: nn.Module, device: torch.device, name: str, trains: bool = False
    ) -> Shape:
        """What a network gives for the first examples; see :func:`probe`.

        Raises:
            ArgumentError: as :func:`probe` does, or if it knows another number of classes.
        """
        inputs = self.samples(np.arange(2)).inputs[torch.arange(2)].to(device)
        shape, names = probe(network, inputs, name), self.class_names
        if shape.classes != len(names):
            raise ArgumentError(
                f"The {name} knows {shape.classes} classes, and the data have {len(names)} "
                f"({', '.join(names)}); give one that was made for these."
            )
        if trains:
            _train_once(network, inputs, f"The {name} ({type(network).__name__})")
        return shape

    def cut(self, rows: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Divide some rows by group into the rest and a share, such as for meta batches."""
        if not share:
            return rows, rows[:0]
        parts = without_meta(self.select(rows), share, seed)
        return rows[parts.train], rows[parts.test]

    def facts(self, parts: Split) -> dict[str, Any]:
        """What two trainings on the same data and split have in common, JSON values."""
        return {
            "split": digest(json.dumps(parts.to_dict(), sort_keys=True), {}),
            "recordings": self.fingerprint,
            "class_names": self.class_names,
            "sample_rate": self.recordings.sample_rate if self.recordings else None,
        }

    def signals(self, rows: np.ndarray) -> Samples:
        """Raw signals at these places, to be augmented; many of a memory map stay there.

        Raises:
            ArgumentError: if these are no recordings, or the recipe's shift is too long for them.
        """
        if self.recordings is None:
            raise ArgumentError(
                "The recipe's augmentation varies recordings, and these data are a dataset; leave "
                "the augmentation out."
            )
        recordings = self.recordings
        check_shift(self.recipe.augmentation, recordings.samples, recordings.sample_rate)
        target = torch.from_numpy(self.labels[rows])
        chosen = choose(recordings.signals, rows)
        if self.inputs is None or isinstance(chosen, Chosen):
            raw = _Views(recordings, None)
            return Samples(Stored(raw, np.asarray(rows), self.workers, self.fingerprint), target)
        return Samples(torch.from_numpy(np.asarray(chosen)), target)

    def varied(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        """What networks read of an augmented version of raw signals."""
        recipe, rate = self.recipe, self.recordings.sample_rate
        varied = augment(signals, rate, recipe.augmentation, generator)
        return network_inputs(varied, recipe, rate)


def without_meta(train: Recordings | Examples, share: float, seed: int) -> Split:
    """A training part divided into what is trained on and, as the test part, the meta batches.

    Raises:
        DataError: if a class has too few labelled groups to give up the share.
    """
    try:
        return split(train, validation=0, test=share, seed=seed)
    except DataError as error:
        raise DataError(
            "meta batches",
            f"in the training part {error.found}",
            expected=error.expected,
            mend="raise `meta_share` of the recipe (below 0.5), label more groups, or choose a "
            "weighting without meta batches, such as fixed",
        ) from error


class _Views(Dataset):
    """The networks' inputs of recordings, made a batch at a time; without a recipe, raw signals."""

    def __init__(self, recordings: Recordings, recipe: Any) -> None:
        self.recordings, self.recipe = recordings, recipe

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Tensor, int]]:
        """What a DataLoader asks for, where it can: all items of a batch."""
        signals, labels = self.recordings.signals, self.recordings.labels[rows]
        inputs = torch.from_numpy(np.asarray(signals[rows]))
        let_go(signals)
        if self.recipe is not None:
            inputs = network_inputs(inputs, self.recipe, self.recordings.sample_rate)
        return list(zip(inputs, labels.tolist(), strict=True))


class _Rows(Dataset):
    """Some items of a dataset."""

    def __init__(self, dataset: Dataset, rows: np.ndarray) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.rows[index])]

    def __getitems__(self, places: Sequence[int]) -> list[Any]:
        """What a DataLoader asks for: the items of a batch, at once where the dataset can."""
        rows = self.rows[places].tolist()
        if at_once := getattr(self.dataset, "__getitems__", None):
            return at_once(rows)
        return [self.dataset[row] for row in rows]


def _fits(x: Tensor, count: int) -> bool:
    return x.numel() * 4 * count <= MEMORY_SHARE * psutil.virtual_memory().total


def _stacked(items: Sequence[tuple]) -> Tensor:
    return torch.stack([_tensor(item[0]) for item in items])


def _tensor(x: Any) -> Tensor:
    return (x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.array(x))).float()


def _item(data: Dataset, index: int, count: int) -> tuple[Tensor, int, Any]:
    """One item, checked."""
    where = f"{type(data).__name__}[{index}]"
    try:
        item = data[index]
    except (IndexError, KeyError) as error:
        raise DataError(
            where,
            f"there is no such item ({type(error).__name__})",
            expected=f"{count} items, as len() says",
            mend="mend __len__ of the dataset",
        ) from error
    if not isinstance(item, tuple | list) or len(item) not in (2, 3):
        raise DataError(
            where, f"the item is a {type(item).__name__}", expected="(x, y) or (x, y, group)"
        )
    x, label, *group = item
    try:
        if (isinstance(x, Tensor) and x.is_complex()) or np.iscomplexobj(x):
            raise TypeError("complex")
        x, label = _tensor(x), np.asarray(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            where, f"x is a {type(x).__name__}", expected="a tensor or an array of real numbers"
        ) from error
    if not torch.isfinite(x).all():
        raise DataError(
            where, "x holds NaN or infinity", expected="finite numbers", mend="leave the item out"
        )
    if label.dtype.kind not in "iu" or label.size != 1 or label.item() < UNLABELLED:
        raise DataError(
            where,
            f"y is {label.tolist()!r}",
            expected="a whole number from 0, the index of the class, or "
            f"{UNLABELLED} where the class is not known",
        )
    return x, int(label.item()), group[0] if group else None


def _class_names(data: Dataset, labels: Sequence[int], where: str) -> tuple[str, ...]:
    count, given = max(labels) + 1, getattr(data, "classes", None)
    known = sum(label != UNLABELLED for label in labels)
    if not known:
        raise DataError(
            where,
            f"all {len(labels)} items are unlabelled (y is {UNLABELLED})",
            expected="labelled items of two classes or more",
        )
    names = tuple(map(str, given)) if isinstance(given, list | tuple) else ()
    if not names:
        if count > known:  # an identity number, or 255 for unlabelled, say
            raise DataError(
                where,
                f"the labels run to {count - 1}, and there are {known} labelled items",
                expected="labels from 0 to the number of classes - 1",
                mend=f"number the classes from 0 without gaps ({UNLABELLED}: not known)",
            )
        names = tuple(map(str, range(count)))
    if len(names) < max(count, 2):
        raise DataError(
            where,
            f"the labels run to {count - 1} and there are {len(names)} classes",
            expected="two classes or more, and a name for each label",
        )
    if missing := set(range(len(names))) - set(labels):
        raise DataError(
            where,
            f"no item has the label {min(missing)}",
            expected=f"items of all labels from 0 to {len(names) - 1}",
            mend="number the classes from 0 without gaps, or label items of this one",
        )
    return names


def _check_workers(data: Dataset, where: str) -> None:
    try:
        pickle.dumps(data)
    except Exception as error:  # pickle raises whatever the object's own methods raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ArgumentError(
            f"{where} cannot be sent to worker processes ({reason}); use workers=0, or keep "
            "open files and functions out of it."
        ) from error
