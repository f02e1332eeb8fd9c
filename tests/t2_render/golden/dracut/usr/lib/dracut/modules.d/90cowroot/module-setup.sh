#!/bin/bash
# Written by cowroot; `cowroot install` writes it again.
#
# A dracut module (dracut.modules(7)): puts what the boot needs into an initrd, or fails, and dracut with it.

check() {
	[ -e "${dracutsysrootdir-}/etc/cowroot/cowroot.yaml" ]
}

depends() {
	echo systemd fs-lib
	# By itself dracut takes it where / is on a logical volume, but the upper may be.
	if find_binary lvm >/dev/null; then echo lvm; fi
}

# dracut goes on after a failure of install(), but not after one of this.
installkernel() {
	settings=$(/usr/bin/cowroot config shell) || {
		derror "cowroot: the settings in /etc/cowroot/cowroot.yaml cannot be used, see above"
		return 1
	}
	if [ ! -x /usr/bin/python3 ] || [ ! -e /usr/lib/x86_64-linux-gnu/libfuse.so.2 ]; then
		derror "cowroot: /usr/bin/python3 or /usr/lib/x86_64-linux-gnu/libfuse.so.2 is missing, which serve the union"
		return 1
	fi
	mkdir -p "${initdir:?}/etc"
	printf '%s\n' "$settings" >"$initdir/etc/cowroot.conf"
	# Either may be built into the kernel; then there is nothing to add. An upper's file system may be any; dracut knows most.
	hostonly='' instmods fuse overlay ext4 xfs btrfs loop squashfs erofs dm-crypt xts
}

install() {
	inst_multiple cat chroot dd dmesg ln mkdir mount mv readlink rm sh sleep umount
	inst_multiple -o blkid blockdev e2fsck losetup mke2fs cryptsetup fsck.xfs fsck.btrfs halt
	inst_simple "${moddir:?}/functions" /usr/lib/cowroot-boot/functions
	inst_simple "$moddir/boot" /usr/lib/cowroot-boot/boot
	inst_simple "$moddir/cowroot-root.service" "${systemdsystemunitdir:?}/cowroot-root.service"
	inst_simple "$moddir/fsck.conf" "$systemdsystemunitdir/systemd-fsck-root.service.d/cowroot.conf"
	mkdir -p "$initdir$systemdsystemunitdir/initrd-root-fs.target.requires"
	ln -sf ../cowroot-root.service "$initdir$systemdsystemunitdir/initrd-root-fs.target.requires/cowroot-root.service"
}
