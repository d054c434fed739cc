"""What server and client share: configuration, data, models, attacks, training and evaluation."""

import os

# Before torch is imported anywhere: OpenMP's workers then sleep while they wait. By default they spin, and on a busy
# machine who has work waits for who spins: minutes for a second's work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
