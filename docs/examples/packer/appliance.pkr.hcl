# An appliance image that boots copy-on-write, made of Debian's cloud image: `packer build .`, with the command cowroot on the machine and
# root's rights.

variable "image" {
  type    = string
  default = "https://cloud.debian.org/images/cloud/trixie/latest/debian-13-generic-amd64.raw"
}

variable "checksum" {
  type    = string
  default = "file:https://cloud.debian.org/images/cloud/trixie/latest/SHA512SUMS"
}

source "qemu" "appliance" {
  iso_url          = var.image
  iso_checksum     = var.checksum
  disk_image       = true
  format           = "raw"
  disk_size        = "4G"
  headless         = true
  output_directory = "output"
  vm_name          = "appliance.img"

  # Cloud-init takes the account for the build from this disk.
  cd_files         = ["./user-data", "./meta-data"]
  cd_label         = "cidata"
  ssh_username     = "packer"
  ssh_password     = "packer"
  shutdown_command = "sudo systemctl poweroff"
}

build {
  sources = ["source.qemu.appliance"]

  provisioner "shell" {
    inline = [
      "cloud-init status --wait",
      "sudo apt-get update",
      "sudo apt-get install --yes --no-install-recommends libfuse2t64 initramfs-tools",
      # The account was for the build.
      "sudo touch /etc/cloud/cloud-init.disabled",
      "sudo passwd --lock packer",
    ]
  }

  post-processor "shell-local" {
    inline = [
      "cowroot install --image output/appliance.img --config cowroot.yaml",
      "cowroot doctor --image output/appliance.img",
    ]
  }
}
