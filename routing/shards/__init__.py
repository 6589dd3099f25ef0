"""Trajectories on disk: Parquet shards and their manifest."""
