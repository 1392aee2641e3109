"""Searches for decouplings."""
