"""Speculative sampling: the small model drafts tokens, the large one checks."""
