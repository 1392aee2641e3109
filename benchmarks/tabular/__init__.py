"""A tabular benchmark: trainings of a small space, so that a search can be judged without any.

In the spirit of NATS-Bench (Dong et al., TPAMI 2021). See docs/benchmark.md.
"""
