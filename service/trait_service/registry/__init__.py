"""Registry of vectors: files by content, names in a manifest."""
