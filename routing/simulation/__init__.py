"""A simulated routing process whose best policy is known exactly."""
