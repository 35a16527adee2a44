"""REST under /v1: thin routes; what they refuse is a problem document (RFC 9457)."""
