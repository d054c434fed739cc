"""What figures call the keys of the configuration: words for a reader who does not know FedShield."""

# key -> its name, and what its values are multiplied by: shares are in per cent.
_WORDS: dict[str, tuple[str, float]] = {
    "sharing.fraction": ("data shared, %", 100),
    "sharing.pool-fraction": ("pool, % of the training images", 100),
    "sharing.noise": ("noise on the shared images (standard deviation)", 1),
    "federation.rounds": ("rounds", 1),
    "federation.clients": ("clients", 1),
    "federation.fraction": ("clients that train in a round, %", 100),
    "federation.adversarial-clients": ("clients that train adversarially, %", 100),
    "partition.alpha": ("Dirichlet α", 1),
    "partition.classes-per-client": ("classes per client", 1),
    "byzantine.clients": ("clients that lie", 1),
    "byzantine.strength": ("strength of the lie", 1),
    "strategy.malicious": ("liars that the strategy expects", 1),
    "strategy.name": ("strategy", 1),
    "byzantine.attack": ("attack of the liars", 1),
    "privacy.noise-multiplier": ("noise multiplier z", 1),
    "privacy.clipping-norm": ("clipping norm", 1),
    "data.max-examples": ("training images", 1),
    "model.width": ("network width", 1),
    "model.activation": ("activation function", 1),
    "attack.epsilon-255": ("ε, in 1/255", 1),
    "attack.step-255": ("step size of the training attack, in 1/255", 1),
    "attack.steps": ("steps of the training attack", 1),
    "train.local-epochs": ("local epochs", 1),
    "train.learning-rate": ("learning rate", 1),
    "loss.name": ("training method", 1),
    "loss.beta": ("β", 1),
    "method.name": ("federated method", 1),
    "method.prox-mu": ("μ of FedProx", 1),
    "centralized.epochs": ("epochs", 1),
}


def words_of(key: str) -> str:
    """Return what a figure calls a key, with its unit; one without words of its own by the last part of its name.

    >>> words_of("sharing.fraction"), words_of("train.label-smoothing"), words_of("round")
    ('data shared, %', 'label smoothing', 'round')
    """
    return _WORDS[key][0] if key in _WORDS else key.rsplit(".", 1)[-1].replace("-", " ")


def factor_of(key: str) -> float:
    """Return by what a figure multiplies the values of a key, so that they are in the unit that it names."""
    return _WORDS[key][1] if key in _WORDS else 1
