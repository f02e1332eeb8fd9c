"""The direct engine: a session on the kernel's FUSE protocol, in Python from the descriptor up.

    engine       one mounted union: the loop, and what the daemon asks of an engine
    threads      who reads the next request, while others do what takes long
    request      the request in hand, one for each thread
    device       /dev/fuse, mounted by mount(2) or by fusermount3
    features     what is agreed on in INIT, each feature on its own
    replies      structures of replies, packed in one go
    session      what the handlers of requests share
    nodes        which number of the kernel's is which node
    listed       what has a number, but need not be a node yet
    resting      which files are not in use; dormant: what is left of their nodes
    names, attributes, files, directories    the requests, by what they are about
    ledger       what a successor has to know, should this process be killed; memory: where that is kept
    slots        the requests in hand, for the same purpose
    succession   going on where a predecessor was killed
    trustee      descriptors that the keeper holds for the next server
    inheritance  what the ledger said, until it is asked for
    replay       requests that were in hand: done again, or found to be done
    passthrough  which files the kernel reads and writes without asking

The kernel's caches are the truth here: entries, attributes, negative entries, directory contents, symbolic links and pages stay valid for a
year, because every change goes through this process. So each request has to leave them right: by what it answers, by what the kernel
drops by itself after it (fs/fuse/dir.c, fs/fuse/file.c), or by a notification where neither covers a side effect.
"""
