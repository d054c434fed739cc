"""Ray on this machine, or a cluster to join; and how many workers it holds."""

import logging
import math
import os
import socket
from typing import Any

from common.errors import FedShieldError


def gpu_share(workers: int, gpus: int) -> float:
    """Return the part of one GPU that each worker gets, so that all of them fit, and none spans two."""
    return 1 / math.ceil(workers / gpus) if gpus else 0


def default_workers(gpus: int, cpus: int, nodes: int, threads: int) -> int:
    """Return the number of workers where the user gives none.

    One for each GPU; without GPUs, as many as the cores allow when each has ``threads`` (0 = all cores of a node).
    """
    return gpus or (max(1, cpus // threads) if threads else nodes)


def _probe(address: str) -> None:
    """Find out within seconds that nobody listens there: Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> FedShieldError:
    reason = " ".join(str(error).split())[:200]
    return FedShieldError(
        f"--ray-address {address}: no Ray cluster could be joined there ({reason}); give HOST:PORT of a head node, "
        "started with: ray start --head"
    )


def start_ray(address: str | None, workers: int, gpus: int | None) -> Any:
    """Start Ray on this machine, or join the cluster at ``address``; return the module ``ray``.

    Args:
        address: HOST:PORT of a head node, or None.
        workers: processes that Ray starts in advance on this machine.
        gpus: number of GPUs of this machine; None: those that Ray finds.

    Raises:
        FedShieldError: there is no cluster at ``address``, or Ray does not start.
    """
    # Under `uv run` Ray would start its workers through uv, in an environment of their own.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    # Ray's workers step back behind everything else on the machine (nice 15); here they do the main work.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # The future behaviour, and the warning about it goes away.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address is not None:
        _probe(address)
    try:
        if address is None:  # "local": whatever RAY_ADDRESS says
            ray.init(address="local", num_cpus=workers, num_gpus=gpus, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises whatever it likes here
        if address is not None:
            raise _no_cluster(address, error) from error
        reason = " ".join(str(error).split())[:200]
        raise FedShieldError(f"--engine ray: Ray does not start on this machine: {reason}") from error
    return ray
