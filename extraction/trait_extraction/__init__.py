"""Contrastive datasets -> activations -> steering vectors. Imports the client; never vllm, never the service."""
