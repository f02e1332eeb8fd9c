"""What can be done with the layers of a union that is not mounted: one verb each, over `cowroot.union`."""
