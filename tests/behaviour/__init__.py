"""Can a union be told from a plain writable copy of what lies below it?

The same tests run on several *backends*: `plain` (the copy itself: the oracle, and the proof that the tests are right), `overlayfs` (the
kernel's own union: a yardstick, and the proof that the tests can fail), `core` (the union core without a mount) and the engines that
`cowroot mount` knows.

    calls        system calls that Python's os module lacks
    filesystem   the facade that every backend offers: system calls on paths and descriptors
    core_driver  the same facade over the union core; core_names walks paths, core_files keeps what is open
    trees        layers described in Python, built on disk, and merged into the plain copy
    backends     one class per backend: make it, remount it, take it down
    snapshot     a whole tree as data, and what differs between two of them
    known_gaps   where a backend may be told from the copy, and why
    generate     random layers and operations; generate_data: those on the content of one large file
    session      performs operations given as data; lockstep: on the copy and a union at once, comparing
    sequences    runs random sequences and shrinks what departs (`python -m tests.behaviour.sequences --help`)
"""
