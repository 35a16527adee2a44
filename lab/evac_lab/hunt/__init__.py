"""The hunt: random clusters, loads and faults on virtual time, judged by an oracle of its own.

`plan` turns a seed into a scenario that can be written down, `run` lives through many of them,
`minimise` makes a failing one small. The reader's way in is docs/how-to/hunt.md.
"""
