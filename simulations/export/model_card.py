"""The card of an exported model: what it is, how well it withstands what, and how it is used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config.schema import RunConfig
from common.data.cuts import tested_images, training_images
from common.exported import CODE
from common.models.external import TORCHVISION, is_borrowed, torchvision_options
from common.models.networks import MEAN, STD
from common.user_code import is_user_code
from common.words import markdown, visible
from server.run_directory.privacy import read_privacy
from server.run_directory.reader import (
    DEPLOYED,
    read_config,
    read_described_partition,
    read_environment,
    read_kind,
    read_metrics,
)
from simulations.export.chosen import Chosen
from simulations.reports.accuracy import NO_ATTACK, AccuracyTable, bracket, share, tell_chance
from simulations.reports.beside import corruption_sheet, tell_backdoor, tell_calibration, tell_epsilon
from simulations.reports.headline import dataset_name, read_figures, tell_others, threat_label, told_weights, training
from simulations.reports.privacy import privacy_sheet
from simulations.reports.repeat import ABOUT_REAL_CLIENTS, repeat

_USE = {
    "model.safetensors": """    from fedshield import load_exported

    model = load_exported("model.safetensors")   # an nn.Module in eval mode, as RobustBench takes one
    logits = model(pixels)""",
    "model.pt2": """    import torch

    model = torch.export.load("model.pt2").module()   # needs PyTorch alone
    logits = model(pixels)""",
    "model.onnx": """    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    (logits,) = session.run(None, {"pixels": pixels})   # a NumPy array, float32""",
}

CARD = "tags: [adversarial-robustness, federated-learning, fedshield]"
"""A line by which a card is known."""


def model_card(run_dir: Path, config: RunConfig, classes: Sequence[str], chosen: Chosen, names: Sequence[str]) -> str:
    """Return the card, as Markdown.

    Args:
        run_dir: absolute.
        config: of the run.
        classes: in the order of the logits.
        chosen: the model.
        names: of the files that hold it.
    """
    kind, environment = read_kind(run_dir), read_environment(run_dir)
    who = f"a federation of {config.federation.clients} clients" if kind.name == "federation" else "one party"
    side = config.data.side
    activation = "" if is_borrowed(config.model.name) else f" ({config.model.activation})"
    network = visible(config.model.name).replace("`", "'")
    data, how = markdown(dataset_name(config.flat())), markdown(training(config.flat()))
    if used := training_images(described := read_described_partition(run_dir)):
        data += f" ({used} training images)"
    whose = "the model" if chosen.client is None else f"the own model of client {chosen.client}"
    return "\n".join(
        [
            "---",
            "library_name: pytorch",
            "pipeline_tag: image-classification",
            CARD,
            "---",
            f"# {markdown(run_dir.name)}",
            "",
            f"`{network}`{activation}: {how}, by {who}, on {data}, seed {config.seed}; {whose} after {kind.unit} "
            f"{chosen.round}.{_given(environment)}",
            "",
            *(_figures(run_dir, config, described) if chosen.client is None else _own_figures(run_dir, chosen.client)),
            *(_private(read_metrics(run_dir)) if chosen.client is None else []),
            *_privacy(run_dir, kind.unit, chosen),
            "## Use",
            "",
            f"`pixels`: [B, 3, {side}, {side}], in [0, 1]. Logits: [B, {len(classes)}], of "
            f"{', '.join(map(markdown, classes))}.",
            "",
            *(f"{_use(name, config, len(classes))}\n" for name in names),
            "## Where it comes from",
            "",
            *([ABOUT_REAL_CLIENTS, ""] if kind == DEPLOYED else []),
            *(f"    {visible(line)}" for line in repeat(kind, read_config(run_dir), environment)),
            "",
            f"SHA-256 of {'the weights in the run directory' if chosen.client is None else 'these weights'}: "
            f"{markdown(chosen.sha256)}.",
            "The whole configuration and the figures of every round are in the run directory.",
            "",
        ]
    )


def _given(environment: Mapping[str, Any]) -> str:
    """Say with which weights training began, where they were given."""
    if not (told := environment.get("weights")):
        return ""
    return f" Training began with given weights: {markdown(told_weights(told))} (SHA-256 {told['sha256']})."


def _figures(run_dir: Path, config: RunConfig, described: Mapping[str, Any]) -> list[str]:
    figures = read_figures(run_dir)
    if not figures:
        return ["It was not evaluated.", ""]
    accuracy = AccuracyTable.of(figures)
    against = f"{NO_ATTACK[0].upper()}{NO_ATTACK[1:]}."
    if accuracy.attacked:
        others = ", and examples made on other models," if figures.get("from") else ""
        within = threat_label(figures, config.flat())
        against = f"White-box attacks{others} within {within}; a stronger attack may leave less."
    told = [
        *tell_chance(figures, described),
        *tell_calibration(figures),
        *tell_backdoor(figures),
        *tell_others(figures),
    ]
    warnings = [f"**Warning**: {markdown(line)}" for line in figures.get("warnings", ())]
    corrupted = corruption_sheet(figures)
    cells = [(markdown(row.name), share(row.value), bracket(row.interval)) for row in accuracy.whole().values()]
    return [
        f"## Accuracy on n = {tested_images(accuracy.n, described)} test images",
        "",
        "| attack | % | 95 % interval |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
        f"{against} The intervals are of the sample of test images; another training seed may differ by more.",
        "",
        *(f"- {line}" for line in [*warnings, *map(markdown, told)]),
        *([""] if warnings or told else []),
        *([corrupted.markdown(2)] if corrupted else []),
    ]


def _privacy(run_dir: Path, unit: str, chosen: Chosen) -> list[str]:
    """Return what the model tells about its training images, if it is the one that was asked."""
    record = read_privacy(run_dir)
    sheet = privacy_sheet(record, unit) if record.get("sha256") == chosen.sha256 else None
    return [sheet.markdown(2)] if sheet else []


def _private(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the model may tell of a client, where that has a bound."""
    if (spent := tell_epsilon(metrics)) is None:
        return []
    epsilon, detail = spent
    return ["## Privacy", "", f"{epsilon} ({markdown(detail)}).", ""]


def _own_figures(run_dir: Path, client: int) -> list[str]:
    """Return how good a client's own model is on the test images of its classes."""
    personal = read_figures(run_dir).get("personal") or {}
    told = next((own for own in personal.get("clients", ()) if own["client"] == client), None)
    if told is None:
        return ["It was not evaluated alone.", ""]
    against = f"the worst case of {', '.join(map(markdown, personal.get('attacks', ())))}"
    return [
        f"## Accuracy on n = {told['n']} test images of the classes of client {client}",
        "",
        f"Natural {share(told['natural'])} %, under attack {share(told['robust'])} % ({against}). The global model on "
        f"the same images: {share(told['global']['natural'])} % and {share(told['global']['robust'])} %.",
        "",
    ]


def _use(name: str, config: RunConfig, classes: int) -> str:
    """Return how a file is used; a network of the user's own is built by its code, which others will be asked about."""
    text = _USE.get(name) or torchvision_use(config, classes)
    if name == "model.safetensors" and is_user_code(config.model.name):
        text += f"\n\nThis runs `{CODE}` in the same folder. If you have not run that code before, read it, and add "
        text += "`trust_code=True`."
    return text


def torchvision_use(config: RunConfig, classes: int) -> str:
    """Return how torchvision's own network takes the weights."""
    small = """
    model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = torch.nn.Identity()"""
    if (name := config.model.name).startswith(TORCHVISION):
        options = torchvision_options(name, classes, config.data.side)
        given = "".join(f", {key}={value!r}" for key, value in options.items())
        network = f'get_model("{name.removeprefix(TORCHVISION)}"{given})'
    else:
        network = f"resnet18(num_classes={classes}){small if config.model.stem == 'small' else ''}"
    return f"""    import torch, torchvision
    from safetensors.torch import load_file

    model = torchvision.models.{network}
    model.load_state_dict(load_file("model.torchvision.safetensors"))
    normalize = torchvision.transforms.Normalize({MEAN}, {STD})
    logits = model.eval()(normalize(pixels))   # torchvision's has no normalization inside"""
