"""What runs inside a trial: the search, and the block-wise training of one decoupling."""
