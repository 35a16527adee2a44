"""Speed, measured: `make bench`. Every figure is a median with its range; peers run interleaved.

No test depends on a time. A claim about speed anywhere in the documentation names a row printed
here.
"""
