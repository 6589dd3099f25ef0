"""Where problems come from, and which of them may be trained on."""
