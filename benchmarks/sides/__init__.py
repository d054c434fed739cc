"""The sides of ``same_work``: each runs in a process, and but for FedShield's in an environment, of its own."""
