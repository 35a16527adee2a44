"""The api: what people want, checked and stored; and what they may know, read back truthfully."""

__version__ = "0.1.0"
