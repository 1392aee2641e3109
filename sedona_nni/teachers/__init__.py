"""What teaches a block: auxiliary networks and losses."""

NO_AUXILIARY = "none"
"""In place of an auxiliary network's name: the block below the cut has no classifier. Only methods
that teach blocks otherwise can train it, see `sedona_nni.training.methods`."""
