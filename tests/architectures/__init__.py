"""Models of many architectures as GGUF files that llama.cpp loads: true tensors and keys, no weights."""
