"""R2R's rule: the large model writes the tokens at which the two would part."""
