"""Who may call what: API keys, scopes, limits, middleware and shutdown."""
