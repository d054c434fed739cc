"""Clients over a network: who is connected, their replies, the SuperLink."""
