#cloud-boothook
#!/bin/bash
# A set-up's NAT instance: lets the private subnets out, and shuts itself down some minutes after the last session has let go of it.
#
# cloud-init runs a boot hook at every boot, and waits until it returns and nothing holds its output: so what lasts goes on without it.
# Sessions write until when they hold it as tags `fleetctl:held-by:SESSION`; its metadata show them as they are at the moment.
look=@LOOK@ grace=@GRACE@ blind=3600 # seconds: between looks; from the last hold to the end; the same where no tag can be read
imds=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest
rule='POSTROUTING ! -o lo -j MASQUERADE'

ask() { # one item of the metadata
    local token
    token=$(curl -sf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/api/token") || return 1
    curl -sf -m 5 -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$1"
}

forward() { # AWS's own way (VPC User Guide, "Work with NAT instances"); the way to the package may come a moment after the machine
    until command -v iptables >/dev/null || dnf -y -q install iptables-services; do sleep 5; done
    until sysctl -q -w net.ipv4.ip_forward=1 && iptables -F FORWARD &&
        { iptables -t nat -C $rule 2>/dev/null || iptables -t nat -A $rule; }; do sleep 5; done
    echo "forwards"
}

held() { # 0: somebody holds it, 1: nobody does, 2: it cannot be told
    local keys key end
    keys=$(ask tags/instance/) || return 2
    for key in $keys; do
        case $key in
            fleetctl:held-by:*)
                end=$(date -d "$(ask "tags/instance/$key")" +%s) || continue
                [ "$end" -gt "$(date +%s)" ] && return 0 ;;
        esac
    done
    return 1
}

watch() {
    local last limit
    last=$(date +%s)
    while sleep "$look"; do
        held
        case $? in
            0) last=$(date +%s); continue ;;
            1) limit=$grace ;;
            *) limit=$blind ;;
        esac
        [ $(($(date +%s) - last)) -ge "$limit" ] || continue
        echo "nobody holds it: off"
        shutdown -h now
        return
    done
}

forward >>"${TMPDIR:-/run}/fleetctl-nat.log" 2>&1 </dev/null &
watch >>"${TMPDIR:-/run}/fleetctl-nat.log" 2>&1 </dev/null &
