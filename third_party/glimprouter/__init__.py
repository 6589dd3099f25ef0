"""GlimpRouter: the entropy of a step's first token decides who writes it."""
