"""One runnable file per promise about speed: `python -m benchmarks.deploy`, or all by `make bench`."""
