"""The api's statements: the only code that writes the api's tables."""
