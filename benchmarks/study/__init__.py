"""The study: do searches find better decouplings than other strategies at the same total cost?

`python -m benchmarks.study` gathers the trials of its experiments (`strategies.study`), compares
the strategies, and draws the pictures.
"""
