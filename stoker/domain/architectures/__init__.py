"""What a GGUF header says of a model: llama.cpp's rules per architecture, as far as memory depends on them."""
