"""The embedded pair: two tiny language models, their task bench and training."""
