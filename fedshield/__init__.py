"""FedShield from Python: federated adversarial training and its evaluation, for scripts and notebooks.

    import fedshield

    run = fedshield.run(rounds=5, **{"attack.epsilon-255": 8})
    run.metrics

See ``docs/python.md``. A user's own file takes what it needs from here too: ``from fedshield import Method``. This
imports at once, and torch only when something is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedshield.own import *  # noqa: F403
    from fedshield.public import *  # noqa: F403

__version__: str

_PUBLIC = (
    *("run", "centralized", "evaluate", "load", "runs", "load_exported"),
    *("Run", "Measured", "Error", "Received", "Candidates"),
)
_OWN = (
    *("Normalize", "Threat", "Loss", "LossContext"),
    *("Method", "MethodContext", "Turn", "Reply", "Pull", "LinearPull", "OtherWeights"),
)
__all__ = [  # noqa: PLE0604  # names, all of them
    "__version__",
    *_PUBLIC,
    *_OWN,
]


def __getattr__(name: str) -> Any:
    """Import what a name stands for when it is used first."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("fedshield")
        except PackageNotFoundError:  # its folder is on Python's path, as in an app that Flower has sent
            return "0"
    if name not in (*_OWN, *_PUBLIC):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedshield.clash import refuse_clashes

    refuse_clashes()
    if name in _OWN:
        import fedshield.own as place
    else:
        import fedshield.public as place  # type: ignore[no-redef]
    value = globals()[name] = getattr(place, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
