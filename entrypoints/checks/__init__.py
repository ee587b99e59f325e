"""What `stoker doctor` looks at: this host, what the server here depends on, and the cluster behind its API."""
