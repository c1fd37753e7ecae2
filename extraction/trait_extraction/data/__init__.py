"""Contrastive datasets: their files, styles and balance."""
