#!/bin/sh
set -eu

echo 'GRUB_CMDLINE_LINUX="console=ttyS0,115200"' >/etc/default/grub.d/console.cfg
grub-install "$IMAGE"
update-grub
