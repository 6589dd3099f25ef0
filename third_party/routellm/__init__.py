"""RouteLLM: one choice per question, learnt from which model wins."""
