"""Power sampling: answers of one model from its sharpened distribution."""
