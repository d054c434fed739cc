"""Flower's SuperNode and the processes that it starts on a client's machine."""
