"""The pictures of the tricks' pages, drawn from numbers that Temper's own code computes: `python -m benchmarks.pictures`.

A module `benchmarks/pictures/<topic>.py` has `draw(figure: Figure) -> None`, which takes seconds, and gives
`docs/pictures/<topic>.svg`. Its figure is 5.6 by 3.4 inches; `figure.set_size_inches` makes it another.
"""
