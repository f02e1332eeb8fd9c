# @summary Has a machine boot copy-on-write from a disk that stays as it is: installs cowroot with its settings, or takes it out.
#
# @param settings
#   The content of /etc/cowroot/cowroot.yaml. What is not named has its default.
# @param ensure
#   Whether the machine boots copy-on-write. absent: every byte that cowroot changed is put back.
# @param source
#   Where cowroot comes from, on the machine itself: a wheel (….whl), a Debian package (….deb) or a checkout (any other path with a slash);
#   or the name of a package that it can fetch. Without it, the machine has the command cowroot.
#   A wheel or checkout of the version that is installed already is not installed again.
# @param pip_arguments
#   Arguments for pip, which fetches what a wheel stands on, such as --index-url=….
# @param packages
#   Packages that the machine needs for it. The default is right for Debian and Ubuntu.
# @param on_union
#   What is done where / is a union and the disk below it is not as wanted. refuse: it fails and says so. chroot: the disk is changed by
#   `cowroot chroot`, for the next boot.
# @param doctor
#   Whether it fails, after a change, where `cowroot doctor` finds that the next boot would not be as configured.
#
# @example
#   class { 'cowroot':
#     source   => '/var/cache/cowroot-0.1.0-py3-none-any.whl',
#     settings => { 'upper' => { 'size' => '40%' }, 'mounts' => { '/srv' => 'read-only' } },
#   }
class cowroot (
  Cowroot::Settings         $settings      = {},
  Enum['present', 'absent'] $ensure        = 'present',
  Optional[String[1]]       $source        = undef,
  Array[String[1]]          $pip_arguments = [],
  Array[String[1]]          $packages      = [cowroot::libfuse(), 'python3-venv'],
  Enum['refuse', 'chroot']  $on_union      = 'refuse',
  Boolean                   $doctor        = true,
) {
  $kind = $source ? {
    undef     => 'command',
    /\.whl\z/ => 'wheel',
    /\.deb\z/ => 'deb',
    /\//      => 'checkout',
    default   => 'package',
  }
  $is_union = $facts.dig('cowroot', 'verdict') in ['ok', 'degraded']
  $below = $is_union ? {
    true    => 'cowroot chroot',
    default => '',
  }
  $is_refused = $is_union and $on_union == 'refuse'
  $refusal = @("TEXT"/L)
    / is a union in this boot, and the disk below it is to be changed. Boot it thawed for that (cowroot thaw, then reboot; afterwards \
    it is a union again), or set cowroot::on_union to chroot, which changes the disk now, for the next boot.
    |-TEXT
  $refuse = "printf '%s\\n' ${shellquote($refusal)} >&2; exit 1"

  Exec {
    path     => [$facts['path'], '/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'],
    provider => 'shell',
    timeout  => 1800,
  }

  # A running union stands on its packages, and what is written into it does not reach the disk.
  if !$is_union and $ensure == 'present' {
    package { $packages:
      ensure => installed,
      before => Exec['cowroot install'],
    }
  }
  if !$is_union and $kind in ['deb', 'package'] {
    $own = $kind ? {
      'deb'   => { name => 'cowroot', source => $source, provider => 'dpkg' },
      default => { name => $source },
    }
    package { 'cowroot':
      ensure => $ensure,
      *      => $own,
    }
  }

  if $ensure == 'present' {
    $settings_text = shellquote(template('cowroot/cowroot.yaml.erb'))
    $version = $kind ? {
      'wheel'    => $source.regsubst(/\A(.*\/)?[^-\/]+-([^-]+)-.*/, '\2'),
      'checkout' => "\$(sed -n 's/^__version__ = \"\\(.*\\)\"/\\1/p' ${shellquote("${source}/cowroot/__init__.py")})",
      default    => undef,
    }
    $is_this_version = $version ? {
      undef   => 'true',
      default => "cowroot status --json | grep -q \"\\\"installed\\\": \\\"${version}\\\"\"",
    }
    $with_venv = @("SCRIPT"/$)
      set -e
      work=$(mktemp --directory /tmp/cowroot-XXXXXX)
      trap 'rm -rf "\$work"' EXIT
      python3 -m venv "\$work"
      "\$work/bin/python" -m pip install --quiet ${shellquote($pip_arguments)} ${shellquote(String($source))}
      printf %s ${settings_text} | ${below} "\$work/bin/python" -m cowroot install --config /dev/stdin
      | SCRIPT
    $with_command = "printf %s ${settings_text} | ${below} cowroot install --config /dev/stdin"
    $install = $version ? {
      undef   => $with_command,
      default => "if ${is_this_version}; then ${with_command}; else\n${with_venv}fi",
    }
    $install_or_refuse = $is_refused ? {
      true    => $refuse,
      default => $install,
    }
    $plan = "printf %s ${settings_text} | cowroot install --dry-run --json --config /dev/stdin"
    # The settings are checked first, and take the place of the old ones together with all that comes of them, or not at all.
    exec { 'cowroot install':
      command => $install_or_refuse,
      unless  => "${is_this_version} && ${plan} | grep -q '\"actions\": \\[\\]'",
    }
    if $doctor {
      exec { 'cowroot doctor':
        refreshonly => true,
        subscribe   => Exec['cowroot install'],
      }
    }
    if !$is_union and $kind in ['deb', 'package'] {
      Package['cowroot'] -> Exec['cowroot install']
    }
  } else {
    $uninstall_or_refuse = $is_refused ? {
      true    => $refuse,
      default => "${below} cowroot uninstall",
    }
    exec { 'cowroot uninstall':
      command => $uninstall_or_refuse,
      unless  => "! command -v cowroot >/dev/null || cowroot uninstall --dry-run --json | grep -q '\"result\": \"not installed\"'",
    }
    if !$is_union and $kind in ['deb', 'package'] {
      Exec['cowroot uninstall'] -> Package['cowroot']
    }
  }
}
