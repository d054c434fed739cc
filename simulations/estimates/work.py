"""How much work a run is: clients' turns, images trained on, forward passes of training and of evaluation."""

from dataclasses import dataclass

from common.attacks.passes import attack_passes
from common.config.schema import RunConfig
from common.data.datasets import EXTENTS, is_at_hand, load_data
from common.data.image_folders import list_images
from common.errors import FedShieldError
from common.factory import make_federated_method, server_data
from common.methods.feddynat import FedDynAT
from common.models.flops import trained_images, training_passes
from common.paths import whole_path
from common.user_code import is_user_code
from server.run_directory.reader import CENTRALIZED, Kind

_NATURAL = 3  # passes of natural training on one image
_RIGHT = 0.6  # share of the test images that are taken to be classified correctly, and so are attacked


@dataclass(frozen=True)
class Images:
    """How many images a run has.

    Attributes:
        own: training images of all clients together, without the pool's.
        shared: images that every client receives; none in centralized training.
        held: validation images.
        tests: test images.
        classes: how many.
    """

    own: int
    shared: int
    held: int
    tests: int
    classes: int


@dataclass(frozen=True)
class Work:
    """What a run has to compute, from its first round to its last evaluation.

    Attributes:
        rounds: or epochs.
        turns: how often a client trains, over all rounds; one in each epoch where there are no clients.
        cohort: clients of a round.
        images: training images that go through an epoch, over all turns.
        passes: forward passes of training on one image; None if only a try would tell.
        tested: forward passes of all evaluations.
        unknown: attacks of evaluations whose passes are not known.
        factor: what the federated method adds to the time of the local loss; 1 where that is not known.
    """

    rounds: int
    turns: int
    cohort: int
    images: float
    passes: float | None
    tested: float
    unknown: tuple[str, ...]
    factor: float


def count_images(config: RunConfig, kind: Kind) -> Images:
    """Count the images of a run, without decoding or downloading any.

    Raises:
        FedShieldError: they are not there.
    """
    data, sharing = config.data, config.sharing
    if data.name == "split":
        described = server_data(config).described_partition
        sums = {name: sum(described.get(name, ())) for name in ("shared", "validation", "test")}
        own = sum(map(sum, described["clients"]))
        return Images(own, sums["shared"], sums["validation"], sums["test"], len(described["classes"]))
    train, tests, classes = _available(config)
    used = min(train, data.limit or train)
    held = round(data.validation_fraction * used)
    pool = 0 if kind == CENTRALIZED else round(sharing.pool_fraction * (used - held))
    shared = round(sharing.slice_fraction * pool)
    if sharing.kind == "averaged":
        shared //= sharing.average
    elif sharing.kind == "distilled":
        shared = min(shared, sharing.per_class * classes)
    return Images(used - held - pool, 0 if kind == CENTRALIZED else shared, held, tests, classes)


def _available(config: RunConfig) -> tuple[int, int, int]:
    """Return how many training and test images a dataset has, and how many classes."""
    data = config.data
    if data.name == "folder":
        train, test = (list_images(whole_path(data.root) / part) for part in ("train", "test"))
        return sum(map(len, train.values())), sum(map(len, test.values())), len(train)
    if not is_at_hand(data.name, data.root, data.image_size, data.resize):
        if data.name not in EXTENTS:
            raise FedShieldError(
                f"data.name = {data.name}: not on this machine yet, so nobody knows how many images it has; fedshield "
                "partitions, with the same settings, downloads it"
            )
        return EXTENTS[data.name]
    splits = load_data(data.name, data.root, data.image_size, data.resize)
    return len(splits.train.labels), len(splits.test.labels), len(splits.train.classes)


def work_of(config: RunConfig, kind: Kind, images: Images, completed: int = 0) -> Work:
    """Return what a run has to compute after ``completed`` rounds."""
    rounds = max(0, kind.total(config) - completed)
    if kind == CENTRALIZED:
        cohort, epochs, each = 1, float(rounds), float(images.own)
    else:
        cohort = config.federation.cohort
        each = images.own / config.federation.clients + images.shared
        epochs = _epochs(config, completed, rounds)
    tested, unknown = _tested(config, images, completed, rounds)
    passes, plain = passes_of(config, kind), local_passes(config)
    factor = passes / plain if passes and plain else 1.0
    return Work(rounds, rounds * cohort, cohort, cohort * epochs * each, passes, tested, unknown, factor)


def _epochs(config: RunConfig, completed: int, rounds: int) -> float:
    """Return how often a client of every round goes through its images, over the rounds that are left."""
    method, epochs = make_federated_method(config), config.train.local_epochs
    if isinstance(method, FedDynAT):
        return sum(method.epochs(number) for number in range(completed + 1, completed + rounds + 1))
    return rounds * (epochs + (config.method.head_epochs if config.method.name == "fedrep" else 0))


def local_passes(config: RunConfig) -> float | None:
    """Return what the local loss costs on one image, in forward passes; None if only a try would tell."""
    loss, attack = config.loss, config.attack
    mixture = attack.mixture, attack.mixture_rate
    passes = training_passes(loss.name, attack.name, attack.steps, *mixture, loss.calfat_attack)
    return None if passes is None else passes + _second_step(config)


def _second_step(config: RunConfig) -> float:
    """Return the passes of AWP's step, which takes the examples as they are."""
    return _NATURAL * trained_images(config.loss.name) if config.train.awp_gamma else 0


def adversarial_passes(config: RunConfig) -> float | None:
    """Return the same with the federated method, for a client that trains adversarially."""
    local = local_passes(config)
    if local is None or is_user_code(config.method.name):
        return None
    second, trained = _second_step(config), trained_images(config.loss.name)
    return make_federated_method(config).passes(local - second, trained) + second


def passes_of(config: RunConfig, kind: Kind) -> float | None:
    """Return what training on one image costs in the mean over the clients, in forward passes; None if not known."""
    if kind == CENTRALIZED:
        return local_passes(config)
    able, whole = config.federation.adversarial_clients, adversarial_passes(config)
    if whole is None or able == 1:
        return whole
    return able * whole + (1 - able) * make_federated_method(config).passes(_NATURAL, 1)


def _tested(config: RunConfig, images: Images, completed: int, rounds: int) -> tuple[float, tuple[str, ...]]:
    """Return the forward passes of the evaluations after rounds and of the final one, and what is left out of them."""
    settings, last = config.evaluate, completed + rounds
    times = sum(number % settings.every == 0 or number == last for number in range(completed + 1, last + 1))
    after = min(settings.examples or images.tests, images.tests)
    held = min(settings.examples or images.held, images.held)
    final = min(settings.final_examples or images.tests, images.tests)
    ends = config.final_attacks(images.classes)
    labels = [(label, times * (after + held)) for label in settings.attacks] + [(label, final) for label in ends]
    found = [(label, attack_passes(label, images.classes), count) for label, count in labels]
    unknown = tuple(dict.fromkeys(label for label, passes, _ in found if passes is None))
    natural = times * (after + held) + (final if ends else 0)
    averaged = max(1, settings.eot)
    return natural + _RIGHT * averaged * sum(
        passes * count for _, passes, count in found if passes is not None
    ), unknown
