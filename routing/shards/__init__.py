"""Collected records on disk: Parquet shards and their manifest."""
