require 'json'

# What / is, as `cowroot status` says: the verdict (ok, not-installed, not-active, degraded), the version that is installed, the problems.
# Without the command there is no fact.
Facter.add(:cowroot) do
  confine { Facter::Core::Execution.which('cowroot') }
  setcode do
    # Its exit code is the verdict.
    status = JSON.parse(Facter::Core::Execution.execute('cowroot status --json', on_fail: '{}'))
    status.slice('verdict', 'installed', 'problems')
  rescue JSON::ParserError
    nil
  end
end
