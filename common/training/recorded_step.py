"""A training batch on a GPU, recorded once as a CUDA graph and then launched as a whole."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Inputs = Sequence[Tensor | None]
Step = Callable[..., Tensor]

_MOST = 4  # recordings at a time: each has memory of its own


class Recordings:
    """Runs the training batches of one network; records each kind of batch that comes a second time.

    Args:
        device: a GPU.
        state: what a batch changes in place: weights, statistics, momenta.
    """

    def __init__(self, device: torch.device, state: Sequence[Tensor]) -> None:
        self._device, self._state = device, state
        self._method: object = None
        self._seen: set[object] = set()
        self._recorded: dict[object, RecordedStep] = {}

    def run(self, step: Step, inputs: Inputs, method: object, kind: object) -> Tensor:
        """Return what ``step`` returns.

        Args:
            step: as in ``RecordedStep``.
            inputs: of the step.
            method: the training method; with one that is not equal, all recordings are dropped.
            kind: all that the step depends on except its inputs' values; their shapes belong to it.
        """
        if method != self._method:
            self._method = method
            self._seen.clear()
            self._recorded.clear()
        if kind in self._seen and kind not in self._recorded and len(self._recorded) < _MOST:
            self._recorded[kind] = RecordedStep(step, inputs, self._device, self._state)
        self._seen.add(kind)
        return self._recorded[kind](*inputs) if kind in self._recorded else step(*inputs)


class RecordedStep:
    """Launches a whole batch at once: with one kernel at a time, the GPU would wait for Python.

    A recording has fixed places in memory: the inputs are copied into theirs; weights, momenta and learning rate must
    stay where they are (Nguyen and others, "Accelerating PyTorch with CUDA Graphs", 2021). Random numbers come from the
    device's generator, which gives a replay what it would give the single kernels: the bits are the same.

    Args:
        step: of tensors alone; waits for the device nowhere.
        inputs: of the shapes to record, on any device.
        device: a GPU.
        state: what the step changes in place; it has its values back after the recording, as the generator has.
    """

    def __init__(self, step: Step, inputs: Inputs, device: torch.device, state: Sequence[Tensor]) -> None:
        self._places = [None if given is None else given.to(device, copy=True) for given in inputs]
        kept, drawn = [tensor.clone() for tensor in state], torch.cuda.get_rng_state(device)
        self._warm_up(step)
        self._graph = torch.cuda.CUDAGraph()
        # Another thread may ask for the GPU's memory meanwhile, to show it.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = step(*self._places)
        with torch.no_grad():
            for tensor, before in zip(state, kept, strict=True):
                tensor.copy_(before)
        torch.cuda.set_rng_state(drawn, device)

    def _warm_up(self, step: Step) -> None:
        """Run the step first, so that libraries choose algorithms and allocate: a recording does not allow that."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(*self._places)
        torch.cuda.current_stream().wait_stream(side)

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """Run the step on inputs of the recorded shapes; the next call overwrites the result."""
        for place, given in zip(self._places, inputs, strict=True):
            if place is not None and given is not None:
                place.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result
