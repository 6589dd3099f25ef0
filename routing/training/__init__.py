"""State, step, loop and checkpoints of one training run."""
