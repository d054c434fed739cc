"""Networks from pixels in [0, 1] to logits."""

from common.models.networks import Normalize

__all__ = ["Normalize"]  # users' own networks, and copies of them in runs, take it from here
