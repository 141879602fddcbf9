"""What a compressed model must be, and which widths make it so.

`targets` reads what is asked, `cuts` knows what can be cut, `costs` what it
costs, `latency_table` how long layers take, `plan` chooses the widths, and
`files` measures the LiteRT files of models.
"""
