# @summary The package that has libfuse 2. Debian 13 and Ubuntu 24.04 have renamed it, and Puppet does not see that one provides the other.
#
# @return its name
function cowroot::libfuse() >> String[1] {
  $first = $facts['os']['name'] ? {
    'Ubuntu' => '24.04',
    default  => '13',
  }
  $is_new = versioncmp($facts['os']['release']['full'], $first) >= 0
  $is_new ? {
    true    => 'libfuse2t64',
    default => 'libfuse2',
  }
}
