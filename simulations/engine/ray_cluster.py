"""Ray on this machine, or a cluster to join; and how many workers it holds."""

import logging
import math
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import FedShieldError, explain_os_errors
from common.machine import fitting

log = logging.getLogger("fedshield")

_DEEPEST = 28  # bytes of a folder's path: Ray needs 79 more, for ray-XXXXXXXX/r/session_DATE_TIME_PID/sockets/NAME
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}


def gpu_share(workers: int, gpus: int) -> float:
    """Return the part of one GPU that each worker gets, so that all of them fit, and none spans two."""
    return 1 / math.ceil(workers / gpus) if gpus else 0


def default_workers(gpus: int, cpus: int, nodes: int, threads: int) -> int:
    """Return the number of workers where the user gives none.

    One for each GPU; without GPUs, as many as the cores allow when each has ``threads`` (0 = all cores of a node).
    """
    return gpus or (fitting(threads, cpus) if threads else nodes)


def _probe(address: str) -> None:
    """Find out within seconds whether anything listens there: Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdecimal()):
        raise FedShieldError(f"--ray-address {address}: write HOST:PORT of a head node, as in localhost:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> FedShieldError:
    reason = " ".join(str(error).split())[:200]
    return FedShieldError(
        f"--ray-address {address}: could not join a Ray cluster there ({reason}); give HOST:PORT of a head node, "
        "started with: ray start --head"
    )


def _lets_in(address: str) -> bool:
    """Return whether a cluster takes this process's token: Ray would try for 20 seconds, and not say what is wrong."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.exceptions import AuthenticationError

    with init_grpc_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=5)
        except AuthenticationError:
            return False
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNAUTHENTICATED
    return True


def _use_token(alone: bool) -> None:
    """Make Ray require the user's token; without one, on this machine alone, a new random one.

    It is in the environment of Ray's processes, which other users cannot read, as they can a command line.
    """
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if alone and not given:
        given = os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if given:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def private_folder() -> tempfile.TemporaryDirectory[str]:
    """Make the folder around Ray's own, into which Ray lets every user write.

    Its name is short, since Ray's sockets are in it: a socket's path has 107 bytes at most. Where the temporary folder
    is too deep for that, another one serves.
    """
    given = os.environ.get("RAY_TMPDIR") or ("/tmp" if sys.platform == "darwin" else tempfile.gettempdir())  # noqa: S108
    place = os.path.abspath(given)
    if len(os.fsencode(place)) > _DEEPEST:
        shallow = [folder for folder in ("/tmp", "/var/tmp") if os.access(folder, os.W_OK)]  # noqa: S108
        if not shallow:
            raise FedShieldError(
                f"--engine ray: {place}: too long for Ray's sockets; set RAY_TMPDIR to a folder whose path has "
                f"{_DEEPEST} bytes at most"
            )
        log.info("Ray's files are in %s: the path %s is too long for its sockets", shallow[0], place)
        place = shallow[0]
    with explain_os_errors(Path(place)):
        return tempfile.TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True)


def start_ray(workers: int, gpus: int | None, folder: str) -> Any:
    """Start Ray on this machine, only for this process; return the module ``ray``.

    Args:
        workers: processes that Ray starts in advance.
        gpus: number of GPUs; None: those that Ray finds.
        folder: for Ray's files, a ``private_folder``.

    Raises:
        FedShieldError: Ray does not start.
    """
    _use_token(alone=True)
    # Ray then listens on the loopback alone, as it does by default on Windows and macOS.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray = _import_ray()
    files = os.path.join(folder, "r")
    try:  # "local": also where RAY_ADDRESS is set
        with _own_sigterm():
            ray.init(
                address="local", num_cpus=workers, num_gpus=gpus, include_dashboard=False, _temp_dir=files, **_QUIET
            )
    except Exception as error:  # Ray raises exceptions of many kinds here
        reason = " ".join(str(error).split())[:200]
        raise FedShieldError(f"--engine ray: Ray does not start on this machine: {reason}") from error
    return ray


def join_ray(address: str) -> Any:
    """Join the cluster whose head node is at ``address``, HOST:PORT; return the module ``ray``.

    Raises:
        FedShieldError: there is no cluster, or it does not let this user in.
    """
    _use_token(alone=False)
    _probe(address)
    ray = _import_ray()
    try:
        if not _lets_in(address):
            raise FedShieldError(
                f"--ray-address {address}: the cluster asks for another token; set RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH to the one that its machines were started with"
            )
        with _own_sigterm():
            ray.init(address=address, **_QUIET)
    except FedShieldError:
        raise
    except Exception as error:  # Ray raises exceptions of many kinds here
        raise _no_cluster(address, error) from error
    return ray


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what SIGTERM does to this process: Ray would end it without a word, or with a dump of its stack."""
    if threading.current_thread() is not threading.main_thread():  # which alone has handlers
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:  # what Ray's own handler raises
        raise KeyboardInterrupt from end
    finally:
        signal.signal(signal.SIGTERM, before)


def _import_ray() -> Any:
    # Under `uv run` Ray would start its workers through uv, in an environment of their own.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    # By default Ray's workers have a low priority (nice 15); here they do the main work.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # The future behavior, and the warning about it goes away.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray
