# Completion of cowroot for fish 3.1 and newer.

function __cowroot_complete
    set -l tab (printf '\t')
    # Of --OPTION=VALUE, the value is what is completed.
    set -l option (commandline -ct | string match -r -- '^--[^=]*=')
    for line in (_COWROOT_COMPLETE=line_complete COMP_LINE=(commandline -cp | string collect) cowroot 2>/dev/null)
        set -l fields (string split -- $tab $line)
        switch $fields[1]
            case file
                printf '%s\n' "$option"(__fish_complete_path $fields[2])
            case dir
                printf '%s\n' "$option"(__fish_complete_directories $fields[2] '')
            case plain
                printf '%s\t%s\n' "$option"$fields[2] "$fields[3]"
        end
    end
end

complete --command cowroot --no-files --arguments '(__cowroot_complete)'
