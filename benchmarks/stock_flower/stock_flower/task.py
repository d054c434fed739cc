"""stock_flower: model, data, adversarial training, and the log of times."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchattacks
from flwr.app import UserConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after this block."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Net(nn.Module):
    """ResNet-18 for 32x32 images: 3x3 stem, no max pooling."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs = 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
            inputs = outputs
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images in [0, 1]."""
        x = self.blocks(torch.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


data: tuple[Tensor, Tensor] | None = None  # Cache the dataset


def load_data(
    path: str, partition_id: int, num_partitions: int, examples: int, batch_size: int
) -> DataLoader[tuple[Tensor, ...]]:
    """Load the partition of one client."""
    # Only read the file once
    global data  # noqa: PLW0603
    if data is None:
        with np.load(path) as arrays:
            data = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    images, labels = (tensor[partition_id::num_partitions][:examples] for tensor in data)
    return DataLoader(TensorDataset(images.float() / 255, labels), batch_size=batch_size, shuffle=True)


def train(
    net: nn.Module,
    trainloader: DataLoader[tuple[Tensor, ...]],
    config: UserConfig,
    lr: float,
    device: torch.device,
    at_first_step: Callable[[], None],
) -> float:
    """Train the model on adversarial examples of the training set and return the mean loss."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=2e-4)
    epsilon, step, steps = float(config["epsilon"]), float(config["step"]), int(config["attack-steps"])
    attack = torchattacks.PGD(net, eps=epsilon, alpha=step, steps=steps)
    epochs = int(config["local-epochs"])
    net.train()
    running_loss = 0.0
    at_first_step()
    for _ in range(epochs):
        for batch in trainloader:
            images, labels = batch[0].to(device), batch[1].to(device)
            adversarial = attack(images, labels)
            optimizer.zero_grad()
            loss = criterion(net(adversarial), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def wait_for_turn(config: UserConfig, number: int) -> None:
    """Return when the file ``turn-path`` names this round: the benchmark lets its sides run in turn."""
    path = str(config["turn-path"])
    while path and int(Path(path).read_text() or 0) < number:
        time.sleep(0.01)


def log_event(config: UserConfig, event: str, **details: int) -> None:
    """Append a line to the log of times."""
    with Path(str(config["log-path"])).open("a") as log:
        log.write(json.dumps({"event": event, "time": time.time(), **details}) + "\n")
