"""A run's model in files that other programs read, with a card that says what it is."""

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from common.config.schema import RunConfig
from common.errors import FedShieldError, explain_os_errors
from common.exported import ARCHITECTURE, CODE
from common.factory import make_model
from common.files import replace_file, writing
from common.models.external import TORCHVISION
from common.models.networks import BasicBlock
from common.paths import to_install, whole_path
from common.user_code import is_user_code, read_user_code
from server.run_directory.checkpoint import fit_state
from server.run_directory.reader import read_classes
from server.run_directory.restored import stored_config
from simulations.export.chosen import choose
from simulations.export.model_card import CARD, model_card
from simulations.places import refuse_results

_OPSET = 18


def export_run(
    run_dir: Path, kind: str, out: Path | None = None, trust_code: bool = False, whose: str | None = None
) -> list[Path]:
    """Write a run's final model, and its card.

    Args:
        run_dir: absolute.
        kind: a key of ``FORMATS``.
        out: folder; ``export`` in the run directory if not given, and in it ``client-N`` for a client's own model.
        trust_code: run code of the run's that has not been run on this machine before.
        whose: as in ``choose``.

    Returns:
        The model's file, and the card ``README.md``.

    Raises:
        FedShieldError: there is no model, the format cannot hold it, what writes it is not installed, or the folder
            holds another model, which the card would pass off as this one.
    """
    config = stored_config(run_dir, {}, "options", trust_code)
    classes = list(read_classes(run_dir))
    chosen = choose(run_dir, whose, config.federation.clients)
    model = make_model(config, len(classes)).eval()
    fit_state(model, chosen.state, run_dir)
    if out is not None:
        refuse_results(whole_path(out))
    own_place = run_dir / "export" / ("" if chosen.client is None else f"client-{chosen.client}")
    folder = whole_path(own_place if out is None else out)
    name, write = FORMATS[kind]
    others = [file for file, _ in FORMATS.values() if file != name and (folder / file).exists()]
    # Now, before the model is written: it may find a file of the run damaged.
    text = model_card(run_dir, config, classes, chosen, [name, *others])
    card = folder / "README.md"
    _check_same_model(run_dir, folder, others, chosen.sha256)
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write(model, folder / name, config, classes)
    replace_file(card, text.encode())
    return [folder / name, card]


def _check_same_model(run_dir: Path, folder: Path, others: Sequence[str], digest: str) -> None:
    """Refuse a folder with a card of others, or with files of another model than the card is to name."""
    card = folder / "README.md"
    with explain_os_errors(card):
        told = card.read_text("utf-8", "replace") if card.exists() else ""
    if told and CARD not in told:
        raise FedShieldError(f"{card}: is there, and no card of FedShield's; choose another --out")
    if others and digest not in told:
        raise FedShieldError(
            f"{folder / others[0]}: belongs to another model than {run_dir} has now; remove it, or choose another --out"
        )


def _write_safetensors(model: nn.Module, path: Path, config: RunConfig, classes: list[str]) -> None:
    network = config.model.model_dump(exclude={"weights"})
    if is_user_code(config.model.name):  # the code goes along
        network["name"] = f"{CODE}:{config.model.name.rpartition(':')[2]}"
        replace_file(path.parent / CODE, read_user_code("model.name", config.model.name))
    told = json.dumps({"network": network, "classes": classes, "image-size": config.data.side})
    _save(path, model.state_dict(), {ARCHITECTURE: told})


def _save(path: Path, state: Mapping[str, Tensor], told: dict[str, str] | None = None) -> None:
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    replace_file(path, save(copies, told))  # copies: a file has no two names for one tensor, as tied weights are


def _write_torch(model: nn.Module, path: Path, config: RunConfig, classes: list[str]) -> None:
    with _explain_refusal("torch", config):
        program = _program(model, config)
    with writing(path) as file:
        torch.export.save(program, file)


def _write_onnx(model: nn.Module, path: Path, config: RunConfig, classes: list[str]) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise FedShieldError(f"--format onnx: needs onnx and onnxscript; run: {to_install('onnx')}") from error
    with _explain_refusal("onnx", config), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        done = torch.onnx.export(
            _program(model, config),
            input_names=["pixels"],
            output_names=["logits"],
            opset_version=_OPSET,
            verbose=False,
        )
        if done is None:
            raise RuntimeError("it gives no reason")
    # It takes only a path, and writes what is too large for one file into another one next to it.
    with tempfile.TemporaryDirectory() as place:
        done.save(Path(place, path.name))
        for file in Path(place).iterdir():
            replace_file(path.with_name(file.name), file.read_bytes())


@contextmanager
def _explain_refusal(kind: str, config: RunConfig) -> Iterator[None]:
    """Say in one line that torch makes no program of a network; what it says itself fills pages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # torch's compiler has dozens of its own
        told = next((line.strip() for line in str(error).split("\n") if line.strip()), type(error).__name__)
        raise FedShieldError(
            f"--format {kind}: torch cannot export model.name = {config.model.name} ({told}); forward must not depend "
            "on the values of tensors; otherwise use --format safetensors"
        ) from error
    finally:
        logging.disable(before)


def _program(model: nn.Module, config: RunConfig) -> torch.export.ExportedProgram:
    """Return the network as a program for any number of images."""
    side = config.data.side
    return torch.export.export(
        model, (torch.zeros(2, 3, side, side),), dynamic_shapes=({0: torch.export.Dim("images", min=1)},)
    )


def _write_torchvision(model: nn.Module, path: Path, config: RunConfig, classes: list[str]) -> None:
    if config.model.name.startswith(TORCHVISION):  # torchvision's very network, behind the normalization
        _save(path, model.get_submodule("1").state_dict())
        return
    wanted = {"model.name": "resnet18", "model.width": 64, "model.activation": "relu", "model.downsample": True}
    wanted["model.norm"] = "batch"
    found = config.flat()
    for key, value in wanted.items():
        if found[key] != value:
            raise FedShieldError(
                f"--format torchvision: {key} = {found[key]}; torchvision's resnet18 has {value}; use another format"
            )
    _save(path, torchvision_state(model))


def torchvision_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a resnet18's weights under the names of ``torchvision.models.resnet18``.

    With the stem ``small``, ``conv1`` has a kernel of 3×3 there, and ``maxpool`` must be an identity.
    """
    layers = list(model.children())
    parts: dict[str, nn.Module] = {"conv1": layers[1], "bn1": layers[2], "fc": layers[-1]}
    blocks = [layer for layer in layers if isinstance(layer, BasicBlock)]
    for place, block in enumerate(blocks):
        prefix = f"layer{place // 2 + 1}.{place % 2}"
        names = ("conv1", "bn1", None, "conv2", "bn2")
        parts |= {f"{prefix}.{name}": part for name, part in zip(names, block.body, strict=True) if name}
        if isinstance(block.shortcut, nn.Sequential):
            parts[f"{prefix}.downsample"] = block.shortcut
    return {f"{prefix}.{name}": tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()}


Write = Callable[[nn.Module, Path, RunConfig, list[str]], None]
FORMATS: Mapping[str, tuple[str, Write]] = {
    "safetensors": ("model.safetensors", _write_safetensors),
    "torch": ("model.pt2", _write_torch),
    "onnx": ("model.onnx", _write_onnx),
    "torchvision": ("model.torchvision.safetensors", _write_torchvision),
}
