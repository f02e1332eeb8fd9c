"""`make demo`: an appliance image, cowroot installed into it, two boots from a read-only disk, and the image's checksum afterwards."""
