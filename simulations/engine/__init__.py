"""Where the clients of a simulation run: this process, others, or Ray's workers."""
