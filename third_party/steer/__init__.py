"""STEER: the small model's confidence, split by a mixture of two Gaussians."""
