"""The pure heart: what a model needs, where it fits, what is claimed. No I/O, clock, randomness or logging."""
