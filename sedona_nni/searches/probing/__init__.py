"""Probing: short trainings of single cuts."""
