"""Block-wise training: the loop, its settings, and the methods by which blocks learn."""

import sedona_nni.training.methods  # noqa: F401  they register themselves
