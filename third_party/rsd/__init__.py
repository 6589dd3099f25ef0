"""Reward-guided speculative decoding: a reward model accepts each draft."""
