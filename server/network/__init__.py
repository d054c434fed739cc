"""Clients over a network: who is there, their replies, the SuperLink."""
