"""The state of a simulator, whole or in shards, and who works on it: threads, processes, a Dask cluster."""
