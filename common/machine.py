"""What this machine has; without importing torch."""

import ctypes
import math
import os
import platform
import sys
from pathlib import Path

_KEPT_BYTES = 2**27  # free memory that a process keeps
_LARGEST_BLOCK = 2**25  # glibc takes no larger value
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of these settings, from malloc.h


def available_cores() -> int:
    """Return the number of cores this process may use, 1 or more: a container may have a share of the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota())))


def fitting(threads: int, cores: int | None = None) -> int:
    """Return how many things that compute with ``threads`` each (0 = all) fit on the cores, 1 or more.

    Args:
        threads: of each.
        cores: None: those of this machine that this process may use.
    """
    return max(1, (available_cores() if cores is None else cores) // threads) if threads else 1


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores' time the container may use (``docker run --cpus``), infinite without a limit."""
    try:
        if (limit := root / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):  # not Linux, or "max"
        return math.inf


def hidden_gpu(device: Path = Path("/dev/nvidia0")) -> bool:
    """Return whether this machine has an NVIDIA GPU, but the environment lets this process see none."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1") and device.exists()


def asked_device() -> str:
    """Return the device that the user asks for in place of CUDA's GPU, by the environment; an empty text for none."""
    return os.environ.get("FEDSHIELD_DEVICE", "")


def may_have_gpu() -> bool:
    """Tell whether CUDA may find a GPU to use: Linux shows a driver of Nvidia's, of WSL's or of AMD's."""
    if asked_device():
        return False
    drivers = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    return not sys.platform.startswith("linux") or any(os.path.exists(driver) for driver in drivers)


def computes_bfloat16() -> bool:
    """Return whether this CPU has instructions for products in bfloat16: AVX512-BF16, AMX, or Arm's; known on Linux."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def fitting_precision() -> str:
    """Return what ``train.attack-precision = auto`` is on this machine."""
    return "bfloat16" if computes_bfloat16() else "train"


def keep_freed_memory() -> bool:
    """Let this process keep up to 128 MiB that it frees, instead of giving them back to the system at once.

    Each training batch frees what the next one needs. By default glibc may give it back in between; then the system
    hands it out again page by page, filled with zeros: up to a fifth of the CPU time of small batches.

    Returns:
        Whether the C library is glibc, and has agreed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    return bool(set_option(_MMAP_THRESHOLD, _LARGEST_BLOCK) and set_option(_TRIM_THRESHOLD, _KEPT_BYTES))
