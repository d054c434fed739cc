"""A guest in somebody else's process: what FedShield sets there for its own work is put back afterwards."""

import io
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from common.arguments import check_flags
from common.errors import FedShieldError, explain_os_errors
from common.factory import forget_data
from simulations.terminal.console import Output, Terminal, log_to
from simulations.terminal.notebook import in_notebook

_busy = threading.Lock()


@contextmanager
def at_work(quiet: bool = False) -> Iterator[Terminal]:
    """Let FedShield work in this process; give where its lines go.

    Log handlers and levels, random generators, torch's threads and modes, environment variables and signal handlers
    are afterwards what they were before.

    Args:
        quiet: show only warnings, on standard error.

    Raises:
        FedShieldError: a mistake of the user's, or what the system refuses, as one line; or another call is at work,
            and would change the random numbers of this one.
    """
    check_flags(quiet=quiet)
    if not _busy.acquire(blocking=False):
        raise FedShieldError("fedshield is at work in this process, in another thread; wait for it to end")
    try:
        forget_data()
        with _torch(), _numbers(), _logs(), _process(), explain_os_errors():
            # Plain lines: a notebook takes its output for a terminal, but cannot move a cursor.
            console = Terminal(force_jupyter=False, force_terminal=False if in_notebook() else None)
            log_to(console, Output.QUIET if quiet else Output.PLAIN)
            yield console
    finally:
        _busy.release()


@contextmanager
def _torch() -> Iterator[None]:
    """Compute as a command does, whatever torch was told in this process."""
    cudnn = torch.backends.cudnn
    threads, kind, place = torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()
    flags = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if begun else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(kind)
            if place != torch.get_default_device():  # setting it slows down every call of torch
                torch.set_default_device(place)
            cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = flags


@contextmanager
def _numbers() -> Iterator[None]:
    """Keep the random numbers that the caller will draw."""
    own, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global one is the caller's
    try:
        yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)  # noqa: NPY002


@contextmanager
def _logs() -> Iterator[None]:
    """Keep who hears which lines."""
    logs = [logging.getLogger(name) for name in ("fedshield", "flwr")]
    before = [([*log.handlers], [*log.filters], log.level, log.propagate) for log in logs]
    try:
        yield
    finally:
        for log, (handlers, filters, level, propagate) in zip(logs, before, strict=True):
            log.handlers, log.filters, log.propagate = handlers, filters, propagate
            log.setLevel(level)


@contextmanager
def _process() -> Iterator[None]:
    """Keep environment, signals and how standard output writes."""
    variables, out = dict(os.environ), sys.stdout
    errors = out.errors if isinstance(out, io.TextIOWrapper) else None
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield
    finally:
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors=errors)
