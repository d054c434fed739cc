"""Where the clients of a simulation run: this process, or Ray's workers."""
