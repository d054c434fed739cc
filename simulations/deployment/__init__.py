"""Real clients: certificates, keys, and a run on a SuperLink."""
