"""A client's own arrays beside an average over rounds: they belong to the model with which they were trained."""

from pathlib import Path

import pytest
import torch

from server.personal import require_personal
from server.run_directory.checkpoint import load_kept
from server.run_directory.index import UNAVERAGED, read_checkpoint
from tests.helpers.runs import run, same, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_clients_own_model_is_not_made_of_the_average(tmp_path: Path) -> None:
    changes = {"federation__fraction": 0.3, "train__average": "swa", "train__average_start": 1}
    path = run(tmp_path, "run", method__name="fedbn", **changes, evaluate__final_attacks="fgsm")
    personal, last = require_personal(path), load_kept(path, read_checkpoint(path) or {}, UNAVERAGED)
    client, never = min(personal.own), min({*range(10)}.difference(personal.own))
    sent = last.keys() - personal.own[client].keys()
    assert any(not torch.equal(last[name], weights(path)[name]) for name in sent)
    assert all(torch.equal(personal.state(client)[name], last[name]) for name in sent)
    assert same(personal.state(never), weights(path))
