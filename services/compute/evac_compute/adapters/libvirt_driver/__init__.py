"""The real hypervisor, through libvirt. Only here is `libvirt` imported, and only here are
threads.
"""
