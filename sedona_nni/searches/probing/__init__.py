"""Probing: short trainings of single cuts.

probing   what is tried, for how long, and how well it does
result    what that says of every block
kind      the loop over all probes
"""
