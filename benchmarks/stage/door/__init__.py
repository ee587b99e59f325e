"""The OpenAI door under load: the load and the engine (C), and the proxies that are compared."""
