#compdef cowroot
# Completion of cowroot for zsh, where it is called _cowroot in a directory of $fpath.

local kind value help
local -a words_ words_shown parts
local line="${(j: :)${(@q)words[1,CURRENT-1]}} $PREFIX"

# Of --OPTION=VALUE, the value is what is completed.
[[ $PREFIX == --*=* ]] && compset -P 1 '*='

while IFS=$'\t' read -r kind value help; do
    case $kind in
        (file) _files ;;
        (dir) _files -/ ;;
        (plain)
            # More of the same word may follow.
            if [[ $value == *[=/] ]]; then
                parts+=("$value")
            else
                words_+=("$value")
                words_shown+=("$value${help:+  -- $help}")
            fi
            ;;
    esac
done < <(_COWROOT_COMPLETE=line_complete COMP_LINE=$line command $words[1] 2>/dev/null)

(( $#parts )) && compadd -S '' -a parts
(( $#words_ )) && compadd -l -d words_shown -a words_
