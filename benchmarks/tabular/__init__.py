"""A tabular benchmark: trainings of a small space, so that a search can be judged without any.

In the spirit of NAS-Bench-201 (Dong and Yang, ICLR 2020). See docs/benchmark.md.
"""
