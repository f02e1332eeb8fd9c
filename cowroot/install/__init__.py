"""Put cowroot into a root file system, and take it out again without a trace.

    target      what is worked on: a directory, a raw disk image, the running system; locked, mounted, released
    tree        a root file system reached without ever leaving it
    inspection  what is in it (kernels, Python, libfuse, GRUB), and what a boot would miss
    plan        what should be in it: the files and the tools to run, comparable with what is there
    staging     the plan carried out on an overlay of the target, with the target's own tools in a sandbox; the result is a list of changes
    journal     the changes made for good, in a way that survives being killed, and unmade
    manifest    what was changed, with the originals, for `status` and `uninstall`

Nothing in a target is touched before everything that can fail has been done on the overlay.
"""
