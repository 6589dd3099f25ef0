"""Is the answer right?"""
