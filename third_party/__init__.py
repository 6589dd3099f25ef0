"""The systems of others, written anew from their papers to run beside ours."""
