"""Blocks that train in parallel, and what a user would otherwise pick, in one run."""
