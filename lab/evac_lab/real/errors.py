"""What the real lab refuses or fails to do."""

from __future__ import annotations

from evac_common.errors import EvacError


class LabError(EvacError):
    """The lab could not do what was asked."""

    code = "lab.failed"


class CannotRunHere(LabError):
    """This machine lacks what the lab needs; the message names each lack and its remedy."""

    code = "lab.cannot_run_here"
    expected = True


class NotReady(LabError):
    """A program of the lab did not answer before its deadline, or ended first."""

    code = "lab.not_ready"
