"""Steering vectors of other tools: read with every suspicion, written the way that they read them."""
