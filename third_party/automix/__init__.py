"""AutoMix: the small model verifies its own answer before it is accepted."""
