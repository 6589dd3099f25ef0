"""The small networks of the policy and its critics."""
