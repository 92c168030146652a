"""Tokens of an issuer (OpenID Connect), which callers may give in place of keys."""
