"""How much memory a model takes in llama.cpp, per device and on the host, from its header alone."""
