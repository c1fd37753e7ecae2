"""Data of the views, read from a results database: plain values, no HTTP."""
