"""What this machine has; without importing torch."""

import os
import sys
from pathlib import Path


def available_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hidden_gpu(device: Path = Path("/dev/nvidia0")) -> bool:
    """Return whether this machine has an NVIDIA GPU, but the environment lets this process see none."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1") and device.exists()


def may_have_gpu() -> bool:
    """Tell whether there may be a GPU that torch can use: Linux shows a driver of Nvidia's, of WSL's or of AMD's."""
    drivers = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    return not sys.platform.startswith("linux") or any(os.path.exists(driver) for driver in drivers)


def computes_bfloat16() -> bool:
    """Return whether this CPU has instructions for products in bfloat16: AVX512-BF16, AMX, or Arm's; known on Linux."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
