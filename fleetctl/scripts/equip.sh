# What a baked image has by itself on Amazon Linux 2023, Ubuntu and Debian: Python, a server, the nodes' Python, and a boot unit where there
# is no cloud-init. Each is made only where it is not there yet. `equipment` puts the values above this text: python (its version), boot and
# unit (in base64). What needs the nodes' Python is in `furnish`, as that comes in between.
as=
((EUID == 0)) || as=sudo
need() { command -v "$1" >/dev/null; }

packages() {
    if need dnf; then
        $as dnf -q -y install "$@"
    elif need apt-get; then
        $as sh -c 'export DEBIAN_FRONTEND=noninteractive; apt-get -q update && apt-get -q -y install "$@"' apt "$@"
    else
        echo "fleetctl: there is neither dnf nor apt-get here to install $* with" >&2
        return 1
    fi
}

refused() { echo "fleetctl: $1" >&2 && exit 1; }

# Debian's packages start what they install; a fleet's server is started by the launch that wants one
server() {
    if need dnf; then
        packages valkey
    else
        packages valkey-server || packages redis-server || return
        $as systemctl disable --now valkey-server redis-server || :
    fi
}

# What a launch runs without a bundle finds the nodes' Python first. A link would leave its environment behind.
nodes() {
    local name
    for name in python python3 uv; do
        [[ -x $VIRTUAL_ENV/bin/$name ]] || continue
        printf '#!/bin/sh\nexec %q "$@"\n' "$VIRTUAL_ENV/bin/$name" | $as tee "/usr/local/bin/$name" >/dev/null
        $as chmod 755 "/usr/local/bin/$name"
    done
}

# Host keys that are in an image would be those of all its machines
user_data() {
    $as mkdir -p /usr/local/lib/fleetctl
    base64 -d <<<"$boot" | $as tee /usr/local/lib/fleetctl/user-data >/dev/null
    base64 -d <<<"$unit" | sed "s|@home@|$HOME|" | $as tee /etc/systemd/system/fleetctl-user-data.service >/dev/null
    $as systemctl enable fleetctl-user-data.service
    $as sh -c 'rm -f /etc/ssh/ssh_host_*_key*'
}

furnish() {
    need valkey-server || need redis-server || server || refused 'no server could be installed'
    env PATH="${PATH#"$VIRTUAL_ENV/bin:"}" python3 -c 'import gridworker' 2>/dev/null || nodes
    need cloud-init || ! need systemctl || user_data
}

need "python$python" || packages "python$python" || refused "this system has no Python $python: name one that it has with --python"
