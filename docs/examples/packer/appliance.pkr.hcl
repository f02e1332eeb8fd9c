# An appliance image that boots copy-on-write, made of Debian's cloud image: `packer build -var image=… -var checksum=… .`, with the command
# cowroot on the machine and root's rights.

variable "image" {
  type        = string
  description = "Debian's cloud image, generic, raw: an address or a path"
}

variable "checksum" {
  type        = string
  description = "of that: sha512:…, file: and the address of its SHA512SUMS, or none"
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
