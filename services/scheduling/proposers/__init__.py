"""Sources of speculative tokens, each a small pure class registered by name; prompt lookup and its kin live here."""
