"""The oracle: watches a simulated cluster from outside and says which promise was broken, and when.

Shares nothing with the services: their database it reads by raw SQL, their messages it decodes
itself, and what the hardware really did it is told as a `Witness`.
"""

from evac_lab.oracle.oracle import Oracle, Statistics
from evac_lab.oracle.ports import NoWitness, Violation, Witness
from evac_lab.oracle.timings import Timings

__all__ = ["NoWitness", "Oracle", "Statistics", "Timings", "Violation", "Witness"]
