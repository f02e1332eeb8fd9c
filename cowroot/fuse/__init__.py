"""From the kernel to the union and back: translations only, no file system semantics of their own.

    options         what stands behind `-o`, understood
    mounting        `cowroot mount`: start a daemon and wait for it, remount, or mount the kernel's own overlayfs
    daemon          the process that serves a union: hardened, detached, ready when it says so
    keeper          the process that starts one server after another, and makes room for a newer version
    renewal         how a newer version is loaded in the keeper; restarting: how it gets there
    control         its control socket, and how to ask it
    messages        what goes through sockets
    rank            limits and precedence of the process
    reports         what the daemon says of itself
    fusepy_engine   the portable engine: fusepy's libfuse 2 session, watched request by request
    protocol        numbers and structures of the kernel's FUSE protocol
    libfuse         fusepy's bindings, and what they lack
    request         the request in hand, and the files that requests have opened
    inodes          which kernel inode is which node, under which of libfuse's names
    operations      what libfuse calls: the union's answers
    node_answers    requests about one file, answered without libfuse
    file_answers    requests about open files, answered without libfuse
    direct/         the other engine: the kernel's protocol without libfuse

Nothing here is imported by the union core, and nothing here keeps file system state that the core has too.
"""
