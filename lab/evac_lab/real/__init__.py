"""The real lab: libvirt hosts in namespaces, a broker, a database, BMCs and guests on one machine.

What is here starts, cuts off and removes the infrastructure. It knows nothing of evac's services;
whoever runs a scenario starts those inside the hosts and networks that this package gives.
"""
