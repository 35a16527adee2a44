"""The wire: one file declares each family, the codec and the registry serve them all.

Nothing here knows a broker, a database or a service. From the declared classes, and nothing else,
come routing keys, JSON Schemas, AsyncAPI, samples, the reference pages and the wire lock.
"""
