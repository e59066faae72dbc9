# What a machine does before the commands of a launch that has a bundle, files or variables. `Cargo` puts the values above this text:
# bundle python machine, the place of each (bundle_at, files_at), sum (of the files), names (how many files there are). It runs in the commands' own shell, so that what it
# sets lasts. What it sets is in $FLEETCTL_RUN/activate as well, for the check and for whoever comes by SSH.
#
# A bundle is unpacked beside its final place and moved there, so it is whole or not there; who comes second takes what is there. (The
# disk may be shared by machines, whose process ids are alike.) An image may have it already. It becomes a virtual environment by the two things that depend on the machine: a link to its Python, and pyvenv.cfg.
bring() { (. "$FLEETCTL_RUN/tools" && persist "${2##*/}" fetch "$1" "$2" "$3") || { echo "fleetctl: $1 could not be fetched" >&2 && exit 1; }; }

umask 077
: >"$FLEETCTL_RUN/activate.new"
umask 022
if [[ $bundle ]]; then
    began=$EPOCHREALTIME bundles=${FLEETCTL_BUNDLES:-$HOME/.cache/fleetctl/bundles}
    for here in "/opt/fleetctl/bundles/$bundle" "$bundles/$bundle"; do [[ ! -e $here/pyvenv.cfg ]] || break; done
    if [[ ! -e $here/pyvenv.cfg ]]; then
        # A command that bears the version needs no asking; any other Python must say which it is.
        with=$(type -P "python$python") || with=$(type -P python3) || with=$(type -P python) || with=
        case $with in
            '') has='no Python at all' ;;
            */"python$python") has=$python ;;
            *) has=$("$with" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || has='a Python that does not start' ;;
        esac
        if [[ $has != "$python" || $HOSTTYPE != "$machine" ]]; then
            echo "fleetctl: the bundle ${bundle:0:12} is for Python $python on $machine, and this machine has $has on $HOSTTYPE${with:+ ($with)}" >&2
            exit 86
        fi
        new=$bundles/$bundle.$FLEETCTL_INSTANCE.$$
        mkdir -p "$new/bin"
        bring "$bundle_at" "$bundle" "$new/tar"
        tar -xf "$new/tar" -C "$new" --no-same-owner
        with=$(readlink -f "$with")
        ln -s "$with" "$new/bin/python3"
        printf '%s\n' "home = ${with%/*}" 'include-system-site-packages = false' >"$new/pyvenv.cfg"
        rm "$new/tar" "$new/tar.gz"
        mv -T "$new" "$here" 2>/dev/null || { [[ -e $here/pyvenv.cfg ]] && rm -rf "$new"; }
    fi
    printf 'export VIRTUAL_ENV=%q PATH=%q:$PATH\n' "$here" "$here/bin" >>"$FLEETCTL_RUN/activate.new"
    took=$(((${EPOCHREALTIME/./} - ${began/./}) / 1000))
    echo "fleetctl: bundle ${bundle:0:12} is active after $took ms"
fi
if [[ $files_at ]]; then
    bring "$files_at" "$sum" "$FLEETCTL_RUN/files"
    ((!names)) || tar -xf "$FLEETCTL_RUN/files" -C "$HOME" --no-same-owner --strip-components=1 home
    tar -xOf "$FLEETCTL_RUN/files" env >>"$FLEETCTL_RUN/activate.new"
    rm "$FLEETCTL_RUN/files" "$FLEETCTL_RUN/files.gz"
fi
mv "$FLEETCTL_RUN/activate.new" "$FLEETCTL_RUN/activate"
. "$FLEETCTL_RUN/activate"
