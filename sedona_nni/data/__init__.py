"""Data sets, their parts, and batches that depend on a seed and a number alone."""
