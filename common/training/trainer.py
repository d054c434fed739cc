"""Local training, of clients and of centralized training alike."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.sgd import sgd

from common.errors import DeadEndError
from common.seeding import seed_for
from common.training.augmentation import augment, draw_crops
from common.training.awp import Found, WeightPerturbation
from common.training.losses import Loss
from common.training.pull import LinearPull, PlacedPull, Pull
from common.training.recorded_step import Recordings

Batch = tuple[Tensor, Tensor, Tensor | None]
"""Images, labels, and crops as ``augment`` takes them."""

_RESIDENT_BYTES = 2**30  # a client's images up to this size stay on the GPU for the whole call


@dataclass(frozen=True)
class TrainingPlan:
    """How ``Trainer.fit`` trains on the data.

    Attributes:
        epochs: passes over the data; 0 leaves the model as it is.
        batch_size: images a step; the last batch of an epoch may be smaller, or larger by one, see ``_batch_sizes``.
        learning_rate: of SGD, > 0, constant within one call.
        momentum: of SGD, in [0, 1).
        weight_decay: L2 penalty of SGD, >= 0.
        augment: random crop with padding 4, and horizontal flip.
        precision: ``bfloat16`` runs the forward passes under autocast; weights stay float32.
        flip: whether ``augment`` flips; the crops are the same without.
        frozen: names of weights that are not trained; statistics still are.
        perturbed: whether each step is taken at perturbed weights, if the trainer does that (AWP).
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    augment: bool
    precision: Literal["float32", "bfloat16"]
    flip: bool = True
    frozen: frozenset[str] = frozenset()
    perturbed: bool = True


@dataclass(frozen=True)
class FitResult:
    """What one call of ``Trainer.fit`` did; the trained weights are in the model.

    Attributes:
        examples: number of training images (not of steps): the client's weight in FedAvg.
        loss: mean training loss over the images of the last epoch; 0 without one.
        seconds: wall time.
        steps: of SGD.
    """

    examples: int
    loss: float
    seconds: float
    steps: int


def pixels(images: NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """Move uint8 images [B,3,H,W] to ``device`` and scale them to [0, 1] in float32."""
    if isinstance(images, np.ndarray):  # as a view of others, it could have strides that attacks cannot take
        images = torch.from_numpy(np.ascontiguousarray(images))
    return images.to(device).float() / 255


def _batch_sizes(count: int, most: int) -> list[int]:
    """Return how many images each batch of an epoch has; one image that is left over joins the batch before it.

    Batch normalization over a single value is not defined, and that is what one image is on feature maps of one pixel.
    """
    sizes = [most] * (count // most)
    if rest := count % most:
        sizes.append(rest)
    if rest == 1 and len(sizes) > 1:
        sizes[-2:] = [most + 1]
    return sizes


class Trainer:
    """Trains one network, as often as it is asked to; its buffers are made once.

    ``names`` are those of the weights that are trained; ``momenta`` are SGD's momentum buffers after the last call that
    had momentum, one for each weight.

    Args:
        model: on the device on which to train.
        record: on a GPU, record a batch of each size once and launch it as a whole. For networks and losses that decide
            nothing on the CPU. Call ``fit`` with the same loss each time: another one has to be recorded again.
        awp: perturbs the weights in each step; the same as that of the losses.
    """

    def __init__(self, model: nn.Module, record: bool = False, awp: WeightPerturbation | None = None) -> None:
        self.model, self._awp = model, awp
        self._device = next(model.parameters()).device
        # A GPU's convolutions are made for channels last; on a CPU this would change the last bits of every figure.
        self._layout = torch.channels_last if self._device.type == "cuda" else torch.contiguous_format
        model.to(memory_format=self._layout)
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.names = list(trained)
        self._weights: list[Tensor] = [*trained.values()]
        self.momenta = [torch.zeros_like(weight) for weight in self._weights]
        state = [*model.state_dict().values(), *self.momenta]
        self._recordings = Recordings(self._device, state) if record and self._device.type == "cuda" else None
        self._rate = torch.zeros((), device=self._device)
        self._pulls: dict[object, PlacedPull] = {}

    def fit(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        loss: Loss,
        plan: TrainingPlan,
        seed: int,
        momenta: Sequence[Tensor] | None = None,
        on_batch: Callable[[int], None] | None = None,
        pull: Pull | LinearPull | None = None,
    ) -> FitResult:
        """Train the model in place with SGD; it is left in training mode.

        All random numbers of the CPU are drawn and sent to the device before an epoch, so that nothing in the epoch
        waits for a GPU.

        >>> from common.attacks.threat import Threat
        >>> from common.training.losses import LossContext, build_loss
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> images = np.random.default_rng(1).integers(0, 256, (20, 3, 8, 8), np.uint8)
        >>> labels = np.arange(20) % 10
        >>> threat = Threat.from_255(epsilon=8, step=2, steps=3)
        >>> loss = build_loss("pgd-at", model, LossContext("pgd", threat, label_smoothing=0.1, noise_std=0.0))
        >>> plan = TrainingPlan(2, 10, 0.1, momentum=0.9, weight_decay=0.0, augment=False, precision="float32")
        >>> result = Trainer(model).fit(images, labels, loss, plan, seed=1)
        >>> result.examples, result.loss > 0
        (20, True)

        Args:
            images: uint8 [N,3,H,W], N >= 1.
            labels: int64 [N], in [0, classes).
            loss: a training method of ``common.training.losses`` built on this model.
            plan: epochs, batches, rates.
            seed: fixes the order of the images, augmentation, noise and random starts; >= 0.
            momenta: of SGD, of the weights' shapes in the order of the model's parameters, to go on from; empty if not
                given.
            on_batch: called after each step with the number of images trained on in this call.
            pull: corrects the gradients of each step; with another one than a ``LinearPull``, no step is recorded.

        Raises:
            FedShieldError: the loss does not depend on a weight that requires a gradient, or a user's loss or attack
                fails.
        """
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed_for(seed, "order"))
        # What torchattacks and the noise draw from. torch.manual_seed notes the whole stack for each kind of GPU.
        reseed = torch.default_generator.manual_seed if self._device.type == "cpu" else torch.manual_seed
        reseed(seed_for(seed, "noise"))
        home = self._device if images.nbytes <= _RESIDENT_BYTES else torch.device("cpu")
        data, targets = (torch.from_numpy(np.ascontiguousarray(part)).to(home) for part in (images, labels))
        for number, momentum in enumerate(self.momenta if plan.momentum else []):
            if momenta is None:
                momentum.zero_()
            elif momenta[number] is not momentum:
                momentum.copy_(momenta[number])
        self.model.train()
        self._rate.fill_(plan.learning_rate)  # where a recording reads it
        pull = self._placed(pull) if isinstance(pull, LinearPull) else pull
        total, seen, steps = torch.zeros((), device=self._device), 0, 0
        for _ in range(plan.epochs):
            total.zero_()
            for rows, crops in self._plan_epoch(len(data), plan, generator, home):
                total += self._step((data[rows], targets[rows], crops), loss, plan, pull) * len(rows)
                seen += len(rows)
                steps += 1
                if on_batch is not None:
                    on_batch(seen)
        return FitResult(len(data), float(total) / len(data), time.perf_counter() - started, steps)

    def _placed(self, pull: LinearPull) -> PlacedPull:
        """Return the pull, with its arrays where those of its kind have been before."""
        if pull.kind not in self._pulls:
            self._pulls[pull.kind] = PlacedPull(self.names, self._weights, pull)
        return self._pulls[pull.kind].take(pull)

    def _plan_epoch(
        self, count: int, plan: TrainingPlan, generator: torch.Generator, home: torch.device
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the rows of each batch and its crops, on the device where the data is."""
        order = torch.randperm(count, generator=generator)
        sizes = _batch_sizes(count, plan.batch_size)
        batches = torch.split(order.to(home), sizes)
        if not plan.augment:
            return zip(batches, [None] * len(batches), strict=True)
        crops = torch.cat([draw_crops(size, generator, plan.flip) for size in sizes])
        return zip(batches, torch.split(crops.to(home), sizes), strict=True)

    def _step(self, batch: Batch, loss: Loss, plan: TrainingPlan, pull: Pull | None) -> Tensor:
        """Train on one batch; return its mean loss."""
        step = partial(self._train_on, loss=loss, plan=plan, pull=pull)
        if self._recordings is None or not (pull is None or isinstance(pull, PlacedPull)):
            return step(*batch)
        how = plan.precision, plan.momentum, plan.weight_decay, plan.frozen, plan.perturbed, pull and pull.kind
        kind = batch[0].shape, batch[2] is None, *how
        return self._recordings.run(step, batch, loss, kind)

    def _train_on(
        self,
        images: Tensor,
        labels: Tensor,
        crops: Tensor | None,
        loss: Loss,
        plan: TrainingPlan,
        pull: Pull | None,
    ) -> Tensor:
        chosen = images if crops is None else augment(images, crops)
        chosen = chosen.contiguous(memory_format=self._layout)
        images, labels = pixels(chosen, self._device), labels.to(self._device)
        every = zip(self.names, self._weights, self.momenta, strict=True)
        names, weights, momenta = zip(*(each for each in every if each[0] not in plan.frozen), strict=True)

        def find() -> Found:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
                value = loss(images, labels)
            return value, torch.autograd.grad(value, weights, allow_unused=True)

        awp = self._awp if plan.perturbed else None
        value, gradients = find() if awp is None else awp.at_worst(weights, find)
        if unused := [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]:
            raise DeadEndError(
                f"{unused[0]}: the loss does not depend on this weight of the network; let network and loss use it, or "
                "set its requires_grad to False"
            )
        self._descend(weights, pull(names, weights, gradients) if pull is not None else gradients, momenta, plan)
        return value.detach()

    def _descend(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], momenta: Sequence[Tensor], plan: TrainingPlan
    ) -> None:
        """Take a step of SGD by what torch.optim.SGD calls; the class would import torch's compiler, for seconds."""
        fused = self._device.type == "cuda"
        if fused:  # its kernel needs a gradient with the memory layout of its weight
            gradients = [
                given if given.stride() == weight.stride() else torch.empty_like(weight).copy_(given)
                for given, weight in zip(gradients, weights, strict=True)
            ]
        with torch.no_grad():
            sgd(
                list(weights),
                list(gradients),
                list(momenta),
                lr=self._rate if fused else plan.learning_rate,
                momentum=plan.momentum,
                weight_decay=plan.weight_decay,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                foreach=False,
                fused=fused,
            )
