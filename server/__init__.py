"""The federation's server: strategy, guard, evaluation every round, run directory."""
