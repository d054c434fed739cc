"""Tries what a configuration names on two images, so that a mistake is found before anything is trained."""

from common.config.schema import RunConfig
from common.data import medmnist
from common.data.datasets import EXTENTS, is_at_hand, load_data
from common.data.downloads import PUBLISHED
from common.data.image_folders import list_images
from common.data.shapes10 import CLASSES
from common.factory import make_model, server_data
from common.paths import whole_path
from server.preflight import check_settings
from server.run_directory.given_weights import begin_with_given
from server.run_directory.reader import CENTRALIZED, FEDERATION
from server.trial import try_model
from simulations.engine.byzantine import check_liars


def try_out(config: RunConfig, federation: bool) -> None:
    """Check the strategy, the liars and the attacks; build network and method, call a user's own losses and attacks.

    Raises:
        FedShieldError: one line with the key, and the user's line where the mistake is there.
    """
    kind = FEDERATION if federation else CENTRALIZED
    check_settings(config, kind)
    if federation:
        check_liars(config)
    classes = count_classes(config)
    model = make_model(config, classes)
    begin_with_given(config, model)
    try_model(config, kind, model, classes)


def count_classes(config: RunConfig) -> int:
    """Return the number of classes of a dataset, also of a published one that is not downloaded yet.

    For one of Hugging Face's that is not there it is not known: ten, as for the generated images.
    """
    if config.data.name == "split":
        return len(server_data(config).described_partition["classes"])
    if config.data.name == "folder":
        return len(list_images(whole_path(config.data.root) / "train"))
    data = config.data
    if data.name in PUBLISHED:
        return PUBLISHED[data.name].extent.classes
    if data.name != "shapes10" and is_at_hand(data.name, data.root, data.image_size, data.resize):
        return len(load_data(data.name, data.root, data.image_size, data.resize).train.classes)
    if data.name.startswith("medmnist:"):
        return medmnist.count_classes(data.name)
    return EXTENTS[data.name].classes if data.name in EXTENTS else len(CLASSES)
