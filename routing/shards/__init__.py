"""Stores collected records on disk, in Parquet shards with a manifest."""
