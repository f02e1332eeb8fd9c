# @summary The content of /etc/cowroot/cowroot.yaml.
#
# Written by `make provisioning`, from the table in cowroot/config/settings.py and from provisioning/settings_types.py.
type Cowroot::Settings = Struct[{
  # Whether / is a union. Off: the real root is booted as it would be without cowroot, and writes reach the disk.
  # Default: true.
  Optional['enabled'] => Boolean,
  # What serves the union. direct speaks the kernel's FUSE protocol itself, from Linux 5.4 on; fusepy runs wherever FUSE
  # and libfuse 2 do; overlayfs is the kernel's own union, without FUSE. auto is direct where the kernel can, else
  # fusepy. Default: auto.
  Optional['engine'] => Enum['auto', 'fusepy', 'direct', 'overlayfs'],
  # Whether idle processors are kept awake while requests to the union follow each other closely. Waking them, above all
  # virtual ones, takes several times as long as most answers. Off saves power. With one processor it makes no
  # difference. Default: true.
  Optional['low_latency'] => Boolean,
  # Whether the daemon's memory is locked, so that none of it is ever swapped out or has to be read from the disk again:
  # an answer then waits for no disk but for the file that it is about. It takes some 40 MiB that nobody else can have.
  # Default: false.
  Optional['lock_memory'] => Boolean,
  # A file system (UUID=…, LABEL=…, PARTUUID=… or /dev/…) on which boots with an upper in memory keep how far they came,
  # for `cowroot status --last-boot`. It is mounted for that as long as the system runs. With an upper on a device, that
  # serves. Default: none.
  Optional['black_box'] => Variant[String[1], Integer],
  # What the boot may fall back to when the union cannot come up as configured, tried in this order: a union with an
  # upper in memory; the real root, mounted read-only; a shell in the initramfs. Never a writable real root. Default:
  # tmpfs,read-only,shell.
  Optional['on_failure'] => Array[Enum['tmpfs', 'read-only', 'shell']],
  # Further read-only layers between the disk and the upper, the topmost first: images (squashfs, erofs, …) and
  # directories, on the disk itself or on another device, and whole devices. Default: none.
  Optional['lowers'] => Array[String[1]],
  # What becomes of the file systems besides /, line by line of fstab; the first rule that fits decides. pass: mounted
  # as fstab says; read-only; union: writable, with an upper of its own beside that of /; absent: not mounted. Without a
  # rule a line passes, but for /boot, /boot/efi and /efi, which are read-only: of an upgrade in the union, half would
  # reach the disk. Default: none.
  Optional['mounts'] => Hash[String[1], String[1]],
  # The writable layer: where everything that is written below / goes.
  Optional['upper'] => Struct[{
    # tmpfs: changes live in memory and are gone at the next boot. A file system (UUID=…, LABEL=…, PARTUUID=… or /dev/…)
    # keeps them, or a file with a file system in it (LABEL=…:/path), on a device that is mounted for it. Default:
    # tmpfs.
    Optional['device'] => Variant[String[1], Integer],
    # How large a tmpfs upper may grow: a percentage of the memory, or bytes with K, M or G. It does not limit an upper
    # on a device. A file that upper.create makes is so large. Default: 50%.
    Optional['size'] => Variant[String[1], Integer],
    # How many files a tmpfs upper may hold. auto: one for every two pages of memory, as the kernel has it. Default:
    # auto.
    Optional['inodes'] => Variant[String[1], Integer],
    # How much of the upper is kept for root, so that a machine whose upper was filled can still be logged into, and
    # logs: a percentage of the upper, or bytes with K, M or G; never more than a twentieth of it. On a tmpfs it takes
    # so much memory. Default: 16M.
    Optional['reserve'] => Variant[String[1], Integer],
    # The type of the file system on the upper's device; auto finds it out. Default: auto.
    Optional['fstype'] => Variant[String[1], Integer],
    # The directory on the upper's device that holds the layer, so that the device can hold other things beside it. It
    # is made when it is not there. Default: cowroot.
    Optional['directory'] => Variant[String[1], Integer],
    # How many seconds the boot waits for the upper's device to appear. Default: 30.
    Optional['wait'] => Integer,
    # Whether the upper is made where there is none: an ext4 file system on the device, if nothing at all is found on
    # that; or the file, of upper.size, with ext4 in it. Default: false.
    Optional['create'] => Boolean,
    # Whether the upper's device is encrypted with a key that is made at each boot and kept nowhere, and so is empty at
    # each boot. A device that holds anything else is left alone. Default: false.
    Optional['random_key'] => Boolean,
    # Whether the upper on a device is only read, as the topmost lower: all that was changed so far is there at each
    # boot, and what is changed from now on lives in memory, as with tmpfs. Default: false.
    Optional['read_only'] => Boolean,
    # Whether an upper on a device is emptied at each boot. `cowroot reset` has it emptied once. Default: false.
    Optional['reset'] => Boolean,
  }],
  # From when on a filling upper is told of, by `cowroot watch` and `cowroot status`.
  Optional['full'] => Struct[{
    # How many percent of the upper's space, or of its inodes, are used when there is a warning. Default: 80.
    Optional['warning'] => Integer,
    # How many percent are used when it is critical. From then on `cowroot status` says that something is not as it
    # should be. Default: 95.
    Optional['critical'] => Integer,
  }],
  # What `cowroot install` does to boot menus. A disk that is never written can never clear GRUB's record of a failed
  # boot.
  Optional['grub'] => Struct[{
    # Whether GRUB is kept from waiting at its menu because of a failed boot that it remembers, and from writing to the
    # disk; and systemd-boot from counting boots, and from writing a random seed. Default: true.
    Optional['recordfail'] => Boolean,
    # How many seconds GRUB's menu waits after a boot that it takes for failed. Used only when grub.recordfail is true.
    # Default: 0.
    Optional['timeout'] => Integer,
    # Whether the menu of GRUB, systemd-boot or extlinux offers an entry that boots the real root once, as cowroot=off
    # does. Default: true.
    Optional['off_entry'] => Boolean,
  }],
  # How Upstart (Ubuntu 9.10 to 14.10) is made to bring up the union before mountall mounts anything.
  Optional['upstart'] => Struct[{
    # What happens where no rung of on_failure is left, or the script that brings up the union cannot even run.
    # pre-start makes the script a part of the job mountall: then nothing is mounted, and the boot stands still. job
    # makes it a job of its own: then the boot goes on with the real root as fstab has it, which may be writable.
    # Default: pre-start.
    Optional['form'] => Enum['pre-start', 'job'],
  }],
}]
