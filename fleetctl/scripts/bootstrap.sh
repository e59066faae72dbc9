# What a machine does from its first second to its last. `render` puts the values above this text (launch session topic region fuse ends
# object look secret bulk sum check commands) and drops indentation and comments, so a comment stands on lines of its own, and no string
# here spans lines.
#
# One process decides and reports. Its children only tell it what happened, a line each, on the pipe that is descriptor 9:
#   start      what had to be fetched lies in its file: the commands may begin
#   group N    the commands begin, and whatever they start is in process group N unless it leaves that
#   last       the last of the commands begins now (the commands themselves write this)
#   exit N     the commands have ended
#   ok         the check has succeeded
# Whatever the state, it is sent again and again, so a report that is lost does no lasting harm. Credentials reach curl on its stdin:
# in argv every user of the machine could read them. Times are hundredths of a second since boot, which no step of the clock disturbs.
set -euo pipefail
imds=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
login=${FLEETCTL_LOGIN_USER:-ec2-user} home=${HOME:-} state=/var/lib/fleetctl switch=
# Root hands over to the login user, except on a machine whose login user is root: the local cloud's, where nothing contains it.
if ((EUID)); then login=${USER:-$(id -un)} state=$HOME/.fleetctl; elif [[ $login != root ]]; then switch=1; fi
run=${FLEETCTL_STATE_DIR:-$state}/$launch
fuses=$run-fuse units=${FLEETCTL_UNITS-}
[[ ${FLEETCTL_UNITS+set} || ! $switch || ! -d /run/systemd/system ]] || units=/etc/systemd/system
log=$run/log resend=(${FLEETCTL_RESEND:-5 15 45 300})
phase=booted code=null seq=0 step=0 tries=0 due=0
never=999999999999 ready_at=$never tail= checker= instance= token= role= expires= ssh_key=
# EC2's notice comes two minutes before the end, and is to be looked for every five seconds; the commands get a hundred of the rest.
watch=${FLEETCTL_WATCH:-500} grace=${FLEETCTL_GRACE:-10000} watch_at=$never kill_at=$never group= taken= rebalance=

# A second run on the same machine would move the fuse and do everything twice.
[[ ! -e $run ]] || exit 0
# The fuse comes before all that can fail; in the background, for some shutdown programs stay until the time has come.
left=$(((ends - EPOCHSECONDS + 59) / 60))
((left < fuse)) || left=$fuse
(shutdown -P "+$((left > 0 ? left : 1))" || echo 'fleetctl: no fuse') </dev/null &

mkdir -p "$run"
umask 077
[[ ! $secret ]] || : >"$run/secret"
printf '%s\n' "$commands" >"$run/commands"
exec 3>&1 >>"$log" 2>&1 </dev/null
umask 022
# The commands write into the log itself, so nothing is in flight when its end is read. Following stdin needs no inotify instance.
tail -c +1 -s 2 -f --pid=$$ <"$log" >&3 &
exec 9<> <(:)

say() { printf 'fleetctl: %(%T)T %s\n' -1 "$*"; }
clock() { read -r now _ </proc/uptime && now=$((10#${now/./})); }
# about N: REPLY is N, give or take a quarter, so that machines born together don't call together
about() { REPLY=$(($1 * 3 / 4 + RANDOM % ($1 / 2 + 1))); }
pause() { about "$1" && sleep "$((REPLY / 100)).$((REPLY / 10 % 10))"; }

# field TEXT KEY NAME: the variable NAME gets the text that stands behind "KEY": in JSON
field() {
    local pattern="\"$2\"[[:space:]]*:[[:space:]]*\"([^\"]*)\""
    [[ $1 =~ $pattern ]] && printf -v "$3" %s "${BASH_REMATCH[1]}"
}

# http METHOD PATH HEADER: one exchange with the metadata service; `answer` is its status, empty where there was none, `reply` the body.
# Bash opens the socket itself: a machine asks this often, and a process each time would be a load. The signal that ends whoever writes
# to a closed socket would end the machine.
http() {
    local at=${imds#*://}
    at=${at%%/*}
    [[ $at == *:* ]] || at+=:80
    reply=
    trap '' PIPE
    {
        printf '%s /latest/%s HTTP/1.1\r\nHost: %s\r\nX-aws-ec2-metadata-%s\r\nConnection: close\r\n\r\n' "$1" "$2" "$at" "$3" &&
            { IFS= read -rN 65536 -t 5 reply || (($? < 128)) || reply=; }
    } 2>/dev/null <>"/dev/tcp/${at%:*}/${at##*:}" >&0 || :
    trap - PIPE
    answer=${reply:9:3} reply=${reply#*$'\r\n\r\n'}
    [[ $answer == 200 ]]
}

# ask PATH: `reply` gets what the metadata say; returns 1 where they have no such thing, 2 where they don't answer. A stale token is
# replaced.
ask() {
    for _ in 1 2; do
        [[ $token ]] || { http PUT api/token 'token-ttl-seconds: 21600' && token=$reply; } || return 2
        ! http GET "meta-data/$1" "token: $token" || return 0
        reply=
        [[ $answer == 401 ]] || break
        token=
    done
    [[ $answer == 404 ]] || return 2
    return 1
}

# imds PATH…: `found` gets the values, empty where there is none; the first must exist.
imds() {
    local path
    found=()
    for path; do
        ask "$path" || (($? == 1)) || return
        found+=("$reply")
    done
    [[ ${found[0]} ]]
}

# Renewed ten minutes before they end: EC2 offers the next ones five minutes before, at the latest.
credentials() {
    local TZ=UTC soon json
    printf -v soon '%(%FT%TZ)T' $((EPOCHSECONDS + 600))
    [[ ! $expires > $soon ]] || return 0
    [[ $role ]] || { imds iam/security-credentials/ && role=${found[0]}; } || return
    imds "iam/security-credentials/$role" || { role= && return 1; }
    json=${found[0]}
    field "$json" AccessKeyId access && field "$json" SecretAccessKey private &&
        field "$json" Token ticket && field "$json" Expiration expires
}

# signed SERVICE LINE…: one signed POST of these lines of curl's configuration; `reply` is what comes back, body and status. Without lines
# of data it is a GET, and s3/BUCKET/KEY, with slashes, is the service and the path.
# Returns 2 where curl can't sign. The body is never logged: a refused signature is answered with the request's canonical form, session
# token included.
signed() {
    local status=0 url=amazonaws.com service=${1%%/*}
    credentials || { say 'no credentials yet' && return 1; }
    [[ $region != cn-* ]] || url+=.cn
    url=${AWS_ENDPOINT_URL:-https://$service.$region.$url}
    printf -v reply '%s\n' "user = \"$access:$private\"" "header = \"x-amz-security-token: $ticket\"" "${@:2}"
    reply=$(printf %s "$reply" | curl -qs --max-time 10 --aws-sigv4 "aws:amz:$region:$service" -w '\n%{http_code}' -K - \
        "${url%/}/${1:${#service}+1}") || status=$?
    # 2: an option this curl doesn't know; 4: one it was built without; then SignatureDoesNotMatch, IncompleteSignature and their like
    case $status:$reply in
        0:*$'\n'200) return 0 ;;
        [24]:* | *Signature*) status=2 ;;
        *$'\n'40[013]) status=1 expires= ;;
        *) status=1 ;;
    esac
    say "$1 by curl: HTTP ${reply##*$'\n'}"
    return $status
}

aws_cli() { timeout 60 aws --region "$region" "$@"; }

# mine: whether this is the machine that the fuse was laid for, and not one that has come up from an image of it, with its timer and all.
# Where the metadata don't answer it is.
mine() {
    imds instance-id || return 0
    [[ -e $fuses/of ]] || echo "$found" >"$fuses/of"
    [[ $(<"$fuses/of") == "$found" ]]
}

# fetch BUCKET/KEY SUM FILE: what lies there, unpacked by gzip, into a file of this user's alone; succeeds if it is what was meant, which
# SUM, its SHA-256, says. It may be large, and may take its time. Why curl could not is in no variable, so the other way is tried anyhow.
fetch() {
    umask 077
    { signed "s3/$1" "output = \"$3.gz\"" max-time=600 || aws_cli s3 cp "s3://$1" "$3.gz"; } &&
        gzip -dc "$3.gz" >"$3" && sha256sum -c <<<"$2  $3"
}

# persist WHAT COMMAND…: something to be fetched is tried for for two minutes
persist() {
    local delay
    for ((delay = 100; delay < 10000; delay *= 2)); do
        "${@:2}" && return
        pause $delay
    done
    say "no $1"
    return 1
}

# What asks AWS as this machine, as text for other processes; all functions, as naming some takes more room than it saves.
tools() {
    declare -p imds region
    echo 'token= role= expires='
    declare -f
}

# burn: when this machine ends. `ends` is the hard end, `out` when the fuse has burnt down, in seconds since the epoch. A number in the
# session's object that has grown is its sign of life, and lights the fuse anew; what cannot be read is none, and it burns on. Lines of
# the object: `renewed NUMBER`, and LAUNCH with its hard end. What was learnt is in a file, for the next look may come after a reboot.
burn() {
    local seen=0 out=$((began + 60 * fuse)) armed= word value new= at= end left boot
    [[ ! -r $fuses/state ]] || read -r seen out ends armed <"$fuses/state" || :
    if signed "s3/$object" || { (($? == 2)) && reply=$(aws_cli s3 cp "s3://$object" -); }; then
        while read -r word value; do
            [[ $value =~ ^[1-9][0-9]{0,11}$ ]] || continue
            case $word in
                renewed) new=$value ;;
                "$launch") at=$value ;;
            esac
        done <<<"$reply"
        if [[ $new ]] && ((new > seen)); then
            seen=$new out=$((EPOCHSECONDS + 60 * fuse)) ends=${at:-$ends}
        fi
    fi
    end=$((out < ends ? out : ends))
    left=$(((end - EPOCHSECONDS + 59) / 60))
    read -r boot </proc/sys/kernel/random/boot_id
    if ((end <= EPOCHSECONDS)); then
        say 'its time is over'
        shutdown -P now </dev/null &
    elif [[ $armed != "$end/$boot" ]]; then
        say "ends in $left min"
        shutdown -P "+$left" </dev/null &
    fi
    printf '%s %s %s %s\n' "$seen" "$out" "$ends" "$end/$boot" >"$fuses/state.new"
    mv "$fuses/state.new" "$fuses/state"
}

# publish PHASE: one try to send the present state. (In a trap, a return without a status is that of what came before the trap.)
publish() {
    local file=${FLEETCTL_SSH_KEY_FILE:-/etc/ssh/ssh_host_ed25519_key.pub} kind body text
    [[ $ssh_key || ! -r $file ]] || { read -r kind body _ <"$file" && ssh_key="$kind $body"; } || :
    printf -v text '{"fleetctl":1,"launch":"%s","instance":"%s","phase":"%s","state":"%s","seq":%d,"exit":%s,"tail":"%s"' \
        "$launch" "$instance" "$1" "$phase" $((++seq)) "$code" "$tail"
    printf -v text '%s,"taken_at":"%s","rebalance":"%s"' "$text" "$taken" "$rebalance"
    printf -v text '%s,"ip":"%s","public_ip":"%s","host":"%s","ssh_port":%d,"ssh_key":"%s","user":"%s","type":"%s","zone":"%s"}' \
        "$text" "$ip" "$public_ip" "$host" "${FLEETCTL_SSH_PORT:-22}" "$ssh_key" "$login" "$type" "$zone"
    # For who has missed it, or hears nothing: in a file, and, when it is new, on the console, which must not hold this up.
    echo "$text" >"$run/report"
    ((step + tries)) || echo "$text" >&3 &
    signed sns 'header = "content-type: application/x-www-form-urlencoded"' 'data = "Action=Publish&Version=2010-03-31"' \
        "data-urlencode = \"TopicArn=$topic\"" "data-urlencode = \"Message=${text//\"/\\\"}\"" && return 0
    (($? == 2)) && printf %s "$text" | aws_cli sns publish --topic-arn "$topic" --message file:///dev/stdin >/dev/null
}

# One try, and the time of the next: soon after a failure, ever later after a success, and from the last gap on as a beat.
report() {
    local as=$phase
    ((step < ${#resend[@]})) || as=beat
    if publish "$as"; then
        ((step == ${#resend[@]})) || ((++step))
        tries=0
        about $((resend[step - 1] * 100))
    else
        about $((100 << (tries < 5 ? tries++ : tries)))
    fi
    clock
    due=$((now + REPLY))
}

# become PHASE CODE: failed and interrupted are final, and nothing goes back
become() {
    [[ $phase != failed && $phase != interrupted && $phase != "$1" ]] || return 0
    phase=$1 code=$2 step=0 tries=0 due=0 ready_at=$never
    say "$phase, exit $code"
    [[ $phase != failed ]] || tail=$(tail -c 3072 "$log" | base64 -w 0)
}

# This process is not meant to end. Whatever ends it is the machine's failure; a few tries, for nobody is left to go on trying.
last_words() {
    trap '' HUP INT TERM
    say "the bootstrap ends, exit $1"
    become failed "$1"
    for wait in 100 200 400; do
        [[ ! $instance ]] || publish "$phase" || { pause $wait && continue; }
        break
    done
}
trap 'last_words $?' EXIT
trap 'exit 143' HUP INT TERM

as_login() {
    cd "$home" || exit
    [[ $switch ]] || exec "$@"
    exec runuser -u "$login" -- env HOME="$home" USER="$login" LOGNAME="$login" "$@"
}

# The password of the grid's server and the grid's key, as hexadecimal words, into the file that only the login user reads.
fetch_secret() {
    REPLY=
    if signed ssm 'header = "x-amz-target: AmazonSSM.GetParameter"' 'header = "content-type: application/x-amz-json-1.1"' \
        "data = \"{\\\"Name\\\":\\\"$secret\\\",\\\"WithDecryption\\\":true}\""; then
        field "$reply" Value REPLY
    elif (($? == 2)); then
        REPLY=$(aws_cli ssm get-parameter --name "$secret" --with-decryption --query Parameter.Value --output text)
    fi
    [[ $REPLY =~ ^[0-9a-f\ ]+$ ]] || return
    printf '%s\n' "$REPLY" >"$run/secret"
}

start() {
    (
        status=0
        (as_login setsid -w bash -c 'echo "group $$" >&9 && exec bash -euo pipefail "$0"' "$run/commands") 3>&- || status=$?
        echo "exit $status" >&9
    ) &
    [[ $check ]] || return 0
    (
        delay=15
        until (as_login timeout 30 bash -euo pipefail -c "exec >'$run/check' 2>&1"$'\n'"$check") 3>&- 9>&-; do
            pause $delay
            delay=$((delay < 75 ? delay * 3 / 2 : 100))
        done
        echo ok >&9
    ) &
    checker=$!
}

# signal NAME: to the commands and all that they have started. They have a group of their own below `runuser`, which on SIGTERM would
# itself kill what it runs after two seconds.
signal() { [[ ! $group ]] || kill -"$1" -- "-$group" 2>/dev/null || :; }

# moment KEY NAME: the variable NAME gets the time behind KEY in `reply`, if it is one
moment() {
    local time=
    ! field "$reply" "$1" time || [[ ! $time =~ ^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z$ ]] || printf -v "$2" %s "$time"
}

# Is this machine to be taken back? Then the commands are told to end, and killed after their grace. The recommendation to rebalance is
# passed on and changes nothing: most machines that get one are not taken.
look() {
    watch_at=$((now + watch))
    if ask spot/instance-action; then
        moment time taken
        watch_at=$never kill_at=$((now + grace))
        become interrupted "$code"
        step=0 due=0
        signal TERM
    elif [[ ! $rebalance ]] && ask events/recommendations/rebalance; then
        moment noticeTime rebalance
        say "rebalance, $rebalance"
        step=0 due=0
    fi
}

# The fuse is looked after by a timer of systemd, which outlives this process and a reboot; without systemd by a loop. It runs as root, so
# its files are nobody else's.
if [[ $object ]]; then
    mkdir -m 700 "$fuses"
    began=$EPOCHSECONDS
    {
        echo 'set -uo pipefail'
        tools
        declare -p launch object fuse ends began fuses
        echo '! mine || burn'
        [[ ! $units ]] || echo wait
    } >"$fuses/run"
    if [[ $units ]]; then
        printf '%s\n' '[Service]' Type=oneshot "ExecStart=/bin/bash $fuses/run" >"$units/fleetctl-fuse.service"
        printf '%s\n' '[Timer]' OnBootSec=0 "OnUnitActiveSec=$look" AccuracySec=10 '[Install]' WantedBy=timers.target \
            >"$units/fleetctl-fuse.timer"
        systemctl enable --now fleetctl-fuse.timer || units=
    fi
    # The shutdown that was ordered above stands until the first look, which need not come while the machine is busy starting.
    [[ $units ]] || while pause $((look * 100)); do
        bash "$fuses/run" >>"$fuses/log" 2>&1 || :
    done 3>&- 9>&- &
fi

until imds instance-id local-ipv4 public-ipv4 public-hostname instance-type placement/availability-zone iam/security-credentials/; do
    say 'no metadata yet'
    pause 200
done
for i in "${!found[@]}"; do
    [[ ${found[i]} =~ ^[A-Za-z0-9+=,.@_-]+$ ]] || found[i]=
done
instance=${found[0]} ip=${found[1]} public_ip=${found[2]} host=${found[3]} type=${found[4]} zone=${found[5]} role=${found[6]}
say "$phase as $instance"
clock
watch_at=$((now + watch))
report

# What the commands fetch by themselves they fetch as this does: `. "$FLEETCTL_RUN/tools"`.
tools >"$run/tools"
if [[ $switch ]]; then
    IFS=: read -r _ _ _ _ _ home _ < <(getent passwd "$login") || { say "no user $login" && exit 1; }
    chown -R "$login:" "$run"
fi
export FLEETCTL_LAUNCH=$launch FLEETCTL_SESSION=$session FLEETCTL_INSTANCE=$instance \
    FLEETCTL_IP=$ip FLEETCTL_REGION=$region FLEETCTL_RUN=$run
[[ ! $secret ]] || export GRIDWORKER_SECRET_FILE=$run/secret
if [[ $secret || $bulk ]]; then
    (
        # Commands that are too long for user data lie packed in the session's bucket.
        if { [[ ! $bulk ]] || { persist "commands $bulk" fetch "$bulk" "$sum" "$run/long" && cat "$run/long" >"$run/commands"; }; } &&
            { [[ ! $secret ]] || persist "secret $secret" fetch_secret; }; then
            echo start >&9
        else
            echo 'exit 1' >&9
        fi
    ) &
else
    start
fi

event=
while clock; do
    ((now < ready_at)) || become ready null
    ((now < watch_at)) || look
    ((now < kill_at)) || { kill_at=$never && signal KILL; }
    ((now < due)) || report
    left=$due
    for at in $ready_at $watch_at $kill_at; do ((left < at)) || left=$at; done
    ((left > now)) || left=$((now + 1))
    printf -v left '%d.%02d' $(((left - now) / 100)) $(((left - now) % 100))
    # A line may be cut by the end of the time: what has come of it waits for the rest.
    IFS= read -rt "$left" -u 9 part || { event+=$part && continue; }
    event+=$part
    case $phase/$event in
        */group*)
            group=${event#* }
            [[ $phase != interrupted ]] || signal TERM
            ;;
        interrupted/exit*) code=${event#* } due=0 ;;
        interrupted/*) ;;
        */start) start ;;
        */last) [[ $check || $phase != booted ]] || { clock && ready_at=$((now + 100)); } ;;
        */ok) checker= && become ready "$code" ;;
        */'exit 0')
            [[ $phase == failed ]] || code=0
            [[ $check ]] || become ready 0
            ;;
        */exit*)
            become failed "${event#* }"
            [[ ! $checker ]] || kill "$checker" || :
            ;;
    esac
    event=
done
