"""What the views show, read from a result database: plain values, no HTTP."""
