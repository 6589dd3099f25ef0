"""A router that asks how the models did on the nearest training questions."""
