"""`evac`, the operator's command. It talks to the api over HTTP and to nothing else.

Also here: YAML documents that remember their lines (`document`); the lab reads scenarios with it.
"""
