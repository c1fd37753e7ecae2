"""Model folders: bundled models, their weights and identity, quantisation."""
