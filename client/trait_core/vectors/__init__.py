"""Vector files: their format, random directions and transfer to another model."""
