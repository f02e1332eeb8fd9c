"""How fast the engines are, beside the kernel's overlayfs, other unions and a plain copy: `make bench`, or `python -m benchmarks`.

Everybody has the same layers: a lower on an ext4 file system in a loop device, an upper in memory. For each workload they take turns,
round by round, in another order each time, every turn with a new upper and a new mount. What is shown is the median over the rounds of the
ratio to overlayfs in the same round: what else the machine does then meets both.

`stage` makes the place, `lowers` fills it, `contenders` mount, `workloads` are timed, `measure` lets them take turns, `results` keeps
and computes, `table`, `chart` and `page` show.
"""
