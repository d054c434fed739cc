"""FedShield's side of ``simulator_tax``: ``fedshield run`` with the times written down, or the bare loop it is held to.

python -m benchmarks.engine_side --log FILE [--turn FILE] bare|inprocess|processes|ray KEY=VALUE ...
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Message, MessageType

LOG = "FEDSHIELD_BENCHMARK_LOG"


class Times:
    """A log of times, and a file that says which round may run."""

    def __init__(self, log: str, turn: str) -> None:
        self.log, self.turn = log, turn

    def note(self, event: str, **details: int) -> None:
        """Append a line to the log."""
        with Path(self.log).open("a") as file:
            file.write(json.dumps({"event": event, "time": time.time(), **details}) + "\n")

    def wait(self, number: int) -> None:
        """Return when round ``number`` may run."""
        while self.turn and int(Path(self.turn).read_text() or 0) < number:
            time.sleep(0.01)
        self.note("turn", round=number)


def note_first_steps(log: str) -> None:
    """Write a line whenever a client of this process is about to load its model."""
    from client.session import Session

    train = Session.train

    def noted(session: Session, *arguments: Any) -> Any:
        Times(log, "").note("first-step")
        return train(session, *arguments)

    Session.train = noted  # type: ignore[assignment,method-assign]


def run_engine(times: Times, engine: str, settings: list[str]) -> None:
    """Run ``fedshield run``, a round at a time."""
    import simulations.federation
    from simulations.cli.main import main
    from simulations.engine.local_grid import LocalGrid

    class Timed(LocalGrid):
        rounds = 0

        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            messages = list(messages)
            if messages and messages[0].metadata.message_type == MessageType.TRAIN:
                times.note("round", round=self.rounds)
                self.rounds += 1
                times.wait(self.rounds)
            return super().send_and_receive(messages, timeout=timeout)

    vars(simulations.federation)["LocalGrid"] = Timed
    if engine == "ray":
        from simulations.engine.ray_executor import RayActors, Worker

        class Noted(Worker):
            def __init__(self) -> None:
                super().__init__()
                note_first_steps(times.log)

        RayActors.worker = Noted
    elif engine == "processes":
        from simulations.engine.process_executor import Processes

        os.environ[LOG] = times.log
        Processes.worker = "benchmarks.noted_worker"
    else:
        note_first_steps(times.log)
    sets = [part for setting in settings for part in ("--set", setting)]
    workers = [] if engine == "inprocess" else ["--workers", "2"]
    sys.argv = ["fedshield", "run", "--engine", engine, *workers, *sets]
    main()


def run_bare(times: Times, settings: list[str]) -> None:
    """The same clients' work in a plain loop: ten times load the model, and train it."""
    import torch
    import torchattacks
    from torch.nn.functional import cross_entropy

    from common.config.flat import default_config, merge
    from common.config.schema import parse_config
    from common.factory import make_model, prepare_data, prepare_torch
    from simulations.cli.options import resolve

    config = parse_config(merge(default_config(), resolve(None, settings, default_config()), "options"))
    device = prepare_torch(config.threads)
    splits, division = prepare_data(config)
    model = make_model(config, 10).to(device)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train = config.train
    attack = torchattacks.PGD(
        model, config.attack.epsilon_255 / 255, config.attack.step_255 / 255, config.attack.steps, random_start=True
    )
    optimizer = torch.optim.SGD(
        model.parameters(), train.learning_rate, train.momentum, weight_decay=train.weight_decay
    )
    for server_round in range(1, config.federation.rounds + 1):
        times.wait(server_round)
        for shard in division.shards:
            model.load_state_dict(start)
            model.train()
            optimizer.state.clear()
            rows = torch.randperm(len(shard)).numpy()
            for begin in range(0, len(shard) * train.local_epochs, train.batch_size):
                batch = splits.train.take(shard[rows[begin : begin + train.batch_size]])
                images = torch.from_numpy(batch.images).to(device).float() / 255
                labels = torch.from_numpy(batch.labels).to(device)
                loss = cross_entropy(model(attack(images, labels)), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        times.note("round", round=server_round)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", required=True)
    parser.add_argument("--turn", default="")
    parser.add_argument("engine", choices=["bare", "inprocess", "processes", "ray"])
    parser.add_argument("settings", nargs="*")
    options = parser.parse_args()
    times = Times(options.log, options.turn)
    if options.engine == "bare":
        run_bare(times, options.settings)
    else:
        run_engine(times, options.engine, options.settings)
        times.note("done")


if __name__ == "__main__":
    main()
