"""The embedded pair: two tiny language models, and how they are trained."""
