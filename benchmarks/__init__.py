"""Measurements of this project, each repeatable with one command: ``python -m benchmarks --help``.

Not installed with the library; run it from the root of a checkout.
"""
