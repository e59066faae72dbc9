# What cloud-init would do for a machine of ours, on images that have none: once for each instance, let in the launch's key, then run the
# user data. A unit of systemd calls it at each boot, as root, and tells it the login user's home. The mark that an instance has been
# here comes first, for of a boot that was cut off half may have been done.
set -uo pipefail
imds=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest state=${FLEETCTL_USER_DATA:-/var/lib/fleetctl-user-data}
home=${FLEETCTL_LOGIN_HOME:-$HOME} token=

get() { curl -sf --max-time 5 -H "X-aws-ec2-metadata-token: $token" "$imds/$1"; }

known() {
    token=$(curl -sf --max-time 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$imds/api/token") && id=$(get meta-data/instance-id)
}

until known; do sleep 1; done
mkdir -p "$state"
[[ ! -e $state/$id ]] || exit 0
: >"$state/$id"

if key=$(get meta-data/public-keys/0/openssh-key); then
    mkdir -p "$home/.ssh"
    grep -qsF "$key" "$home/.ssh/authorized_keys" || printf '%s\n' "$key" >>"$home/.ssh/authorized_keys"
    chown --reference="$home" "$home/.ssh" "$home/.ssh/authorized_keys"
    chmod 700 "$home/.ssh" && chmod 600 "$home/.ssh/authorized_keys"
fi

umask 077
get user-data >"$state/script" || { echo 'this machine has no user data' && exit 0; }
if gzip -dc <"$state/script" >"$state/plain" 2>/dev/null; then
    mv "$state/plain" "$state/script"
fi
rm -f "$state/plain"
IFS= read -rn 2 first <"$state/script" || :
[[ $first == '#!' ]] || { echo 'the user data is no script (no #! in front), and is left alone' && exit 0; }
chmod 700 "$state/script"
exec "$state/script"
