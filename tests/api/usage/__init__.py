"""What keeps records of requests."""
