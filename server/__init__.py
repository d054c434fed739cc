"""The federation's server: strategy, checks of replies, evaluation every round, run directory."""
