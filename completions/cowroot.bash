# shellcheck shell=bash
# Completion of cowroot for bash 4.4 and newer.

_cowroot() {
    local kind value _
    # Candidates are for $2, the part of the word that bash replaces; help is for other shells.
    while IFS=$'\t' read -r kind value _; do
        case $kind in
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
            plain)
                COMPREPLY+=("$value")
                # More of the same word may follow.
                case $value in *[=/]) compopt -o nospace ;; esac
                ;;
        esac
    done < <(_COWROOT_COMPLETE=line_complete COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORD="$2" "$1" 2>/dev/null)
}

complete -o nosort -F _cowroot cowroot
