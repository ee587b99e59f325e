"""What several benchmarks stand on: a database, hosts that are played, what the processes cost. Nothing to run here."""
