"""A hypervisor without machines: the same core for virtual time (`local`) and as a process of its
own
(`process`, reached through `remote`). Its log is what judges whether an instance ever ran twice.
"""
