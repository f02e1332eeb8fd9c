"""Layers from one version of this program to the next, in the same process: what is open stays open."""

from __future__ import annotations

import os
from typing import Any

from cowroot.union.former import number_of
from cowroot.union.layers import Layer, Layers
from cowroot.union.marks import Marks


def hand_over(layers: Layers) -> dict[str, Any]:
    """What another version has to know to go on with these layers, in plain values."""
    kinds = {"lower": layers.lower, "upper": [layers.upper] if layers.upper else [], "work": [layers.work] if layers.work else []}
    held = {kind: [(layer.fd, layer.label, layer.oci, layer.private) for layer in those] for kind, those in kinds.items()}
    former = [(layer.rank, layer.number, -1 if layer.work is None else layer.work.fd) for layer in layers.lower if layer.number >= 0]
    return {"userxattr": layers.marks.userxattr, "metacopy": layers.metacopy, "reserve": layers.reserve, "former": former, **held}


def take_over(handed: dict[str, Any]) -> Layers:
    """The layers of which another version has said that in `hand_over`: open, and found fit by it."""
    layers = Layers.__new__(Layers)
    layers.marks, layers.metacopy = Marks(handed["userxattr"]), handed["metacopy"]
    layers.reserve = handed.get("reserve", "0")  # versions before it had none
    layers.lower = [_held(*each) for each in handed["lower"]]
    layers.upper, layers.work = (_held(*handed[kind][0]) if handed[kind] else None for kind in ("upper", "work"))
    if layers.upper is not None:
        layers.upper.number = number_of(layers.upper.fd, layers.marks)
    layers.locked = layers.work is not None
    for rank, number, work in handed.get("former", ()):
        layers.lower[rank].number = number
        if work >= 0:
            layers.lower[rank].adopt_work(work)
    layers.note_those_above()
    return layers


def _held(fd: int, label: str, oci: bool, private: bool) -> Layer:
    layer = Layer(fd, label)
    os.close(layer.fd)
    layer.fd, layer.label, layer.oci, layer.private = fd, label, oci, private  # that one itself: a lock may be on it
    return layer
