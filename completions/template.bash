# Completion of NAME for bash; made by make completions from the options.
# shellcheck shell=bash

# Sets the commands and the options that can follow the words.
_NAME_contents() {
    commands='' options=''
    case $1 in
    # CONTENTS
    esac
}

# Sets what can follow the words and an option, or is the argument with that number.
_NAME_value() {
    kind='' values=''
    case $1 in
    # VALUES
    esac
}

_NAME() {
    local cur prev words cword command=NAME commands options kind values index argument=1
    _get_comp_words_by_ref -n =: cur prev words cword
    _NAME_contents "$command"
    for ((index = 1; index < cword; index++)); do
        case ${words[index]} in
        --*=*) ;;
        -*)
            _NAME_value "$command ${words[index]}"
            [[ $kind ]] && ((index++))
            ;;
        *)
            if [[ " $commands " == *" ${words[index]} "* ]]; then
                command+=" ${words[index]}"
                _NAME_contents "$command"
            elif [[ $commands ]]; then
                return # a command of another program
            else
                ((argument++))
            fi
            ;;
        esac
    done
    if ((index > cword)); then
        _NAME_value "$command $prev"
    elif [[ $cur == --*=* ]]; then
        _NAME_value "$command ${cur%%=*}"
        cur=${cur#*=}
    elif [[ $cur == -* ]]; then
        kind=words values=$options
    elif [[ $commands ]]; then
        kind=words values=$commands
    else
        _NAME_value "$command $argument"
    fi
    case $kind in
    files) _filedir ;;
    directories) _filedir -d ;;
    users) mapfile -t COMPREPLY < <(compgen -u -- "$cur") ;;
    groups) mapfile -t COMPREPLY < <(compgen -g -- "$cur") ;;
    words) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur") ;;
    list)
        local before=
        [[ $cur == *,* ]] && before=${cur%,*},
        mapfile -t COMPREPLY < <(compgen -P "$before" -W "$values" -- "${cur##*,}")
        ;;
    prefixed)
        if [[ $cur == *:* ]]; then
            cur=${cur#*:}
            _filedir
        else
            mapfile -t COMPREPLY < <(compgen -S : -W "$values" -- "$cur")
        fi
        ;;
    esac
    [[ ${COMPREPLY[*]} == *: ]] && compopt -o nospace
    return 0
}

complete -F _NAME NAME
