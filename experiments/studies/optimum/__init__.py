"""Study: how near training comes to the optimum, where the optimum is known."""
