"""Hostile and broken input, by the hundreds, for every command."""
