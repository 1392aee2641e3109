"""Strategies under NNI: SEDONA as a one-shot strategy, and the tuners that nnictl loads."""
