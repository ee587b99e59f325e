"""What llama.cpp itself says that a model takes: the judge of our own estimates."""
