"""Runs in an environment with RobustBench: measures an exported model with its functions, and prints JSON.

``python robustbench_check.py CHECKOUT MODEL.safetensors IMAGES.npz``, with ``images`` [N,3,H,W] float32 in [0, 1] and
``labels`` [N].
"""

import json
import sys

import numpy as np
import pyautoattack
import torch

sys.modules["autoattack"] = pyautoattack  # RobustBench imports it by the name of its repository
from robustbench.eval import AutoAttack  # noqa: E402
from robustbench.utils import clean_accuracy  # noqa: E402

sys.path.insert(0, sys.argv[1])
from common.exported import load_exported  # noqa: E402

model = load_exported(sys.argv[2])
with np.load(sys.argv[3]) as file:
    images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
attack = AutoAttack(model, norm="Linf", eps=8 / 255, version="custom", attacks=["apgd-ce", "apgd-t"], device="cpu")
found = attack.run_standard_evaluation(images, labels, batch_size=len(images))
adversarial = found[0] if isinstance(found, tuple) else found
print(
    "RESULT "
    + json.dumps(
        {
            "natural": clean_accuracy(model, images, labels),
            "robust": clean_accuracy(model, adversarial, labels),
            "change": float((adversarial - images).abs().max()),
        }
    )
)
