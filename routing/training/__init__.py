"""The training state, the update step, the training loop and checkpoints."""
