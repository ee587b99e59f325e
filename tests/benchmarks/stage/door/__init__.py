"""Tests of what the door's benchmarks stand on."""
