"""Vector files, and the rows about them in the result database."""
