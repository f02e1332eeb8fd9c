"""Boots of real images in virtual machines: the top rung of the ladder.

``image`` builds and caches appliance images, ``uml`` and ``qemu`` boot them, ``guest`` carries checks into a guest and their
verdicts out of it. ``python -m demo`` stands on the same modules.
"""
