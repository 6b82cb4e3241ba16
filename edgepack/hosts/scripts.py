"""What `edgepack.remote` runs on a host, in POSIX sh: each script is one step, and safe to repeat."""

from __future__ import annotations

FOLDER = ".edgepack"
JOBS = "jobs"
POLL_SECONDS = 0.3

# Exit codes of the scripts below.
DISTURBED, RUNNING, ABSENT = 75, 76, 77

PRELUDE = r"""
locale=${LC_ALL-}
export LC_ALL=C
umask 077
pause() { sleep "$1" 2>/dev/null || python3 -c "import time; time.sleep($1)"; }
size_of() {
    bytes=$(wc -c 2>/dev/null <"$1") || bytes=$(python3 -c 'import os, sys; print(os.path.getsize(sys.argv[1]))' "$1")
    echo "$((bytes))"
}
digest() {
    if command -v sha256sum >/dev/null 2>&1; then sum=$(sha256sum <"$1"); echo "${sum%% *}"; return; fi
    python3 -c 'import hashlib, sys
file, sum = open(sys.argv[1], "rb"), hashlib.sha256()
for block in iter(lambda: file.read(1 << 20), b""): sum.update(block)
print(sum.hexdigest())' "$1"
}
boot_id() { boot_id=; { read -r boot_id </proc/sys/kernel/random/boot_id; } 2>/dev/null; }
# When a process started, in ticks since boot; nothing if it is gone or a zombie. The number alone may be used anew.
started() {
    started=
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
    set -- ${line##*) }
    case $1 in Z | X) ;; *) started=${20} ;; esac
}
# The living processes of a session.
members() {
    for stat in /proc/[0-9]*/stat; do
        { read -r line <"$stat"; } 2>/dev/null || continue
        set -- "$1" ${line##*) }
        case $2 in Z | X) continue ;; esac
        if [ "$5" = "$1" ]; then stat=${stat#/proc/}; echo "${stat%/stat}"; fi
    done
}
# The processes whose standard output is this file.
writers() {
    [ -f "$1" ] || return 0
    for process in /proc/[0-9]*; do
        if [ "$process/fd/1" -ef "$1" ]; then echo "${process#/proc/}"; fi
    done 2>/dev/null
}
# End the writers that a broken connection left behind: they would add to the file what was sent long ago.
fence() {
    tries=0
    while left=$(writers "$1"); [ -n "$left" ] && [ "$tries" -lt 20 ]; do
        kill -s KILL $left 2>/dev/null
        pause 0.1
        tries=$((tries + 1))
    done
}
# All that runs of a job: its session, and whoever still writes to its output.
crew() {
    [ -z "$2" ] || members "$2"
    writers "$1/stdout"
}
# End all of a job: TERM, and after two seconds KILL.
stop() {
    pid= start= boot=
    { read -r pid start boot <"$1/pid"; } 2>/dev/null
    boot_id
    if [ -n "$pid" ]; then
        started "$pid"
        # The number may belong to somebody else by now.
        if [ "$boot" != "$boot_id" ] || { [ -n "$started" ] && [ "$started" != "$start" ]; }; then pid=; fi
    fi
    left=$(crew "$1" "$pid")
    [ -z "$left" ] || kill -s TERM $left 2>/dev/null
    tries=0
    while left=$(crew "$1" "$pid"); [ -n "$left" ]; do
        [ "$tries" -lt 50 ] || return 1
        [ "$tries" -lt 20 ] || kill -s KILL $left 2>/dev/null
        pause 0.1
        tries=$((tries + 1))
    done
}
"""

# $1 folder
MAKE_ROOT = r"""
: "${HOME:?}"
cd "$HOME" && mkdir -p "$1" && cd "$1" && pwd -P || exit 1
chmod 700 . 2>/dev/null || :
"""

# $1 target, $2 partial, $3 size, $4 digest; says what is there of the file.
INSPECT = r"""
mkdir -p "${1%/*}" || exit 1
if [ -d "$1" ]; then echo "is a folder" >&2; exit 1; fi
fence "$2"
if [ -f "$1" ] && [ "$(size_of "$1")" = "$3" ] && [ "$(digest "$1")" = "$4" ]; then rm -f "$2"; echo same
elif [ -f "$2" ]; then echo "partial $(size_of "$2") $(digest "$2")"
else echo none; fi
"""

# $1 partial, $2 offset. Standard input is added there, and only there.
APPEND = rf"""
if [ "$2" = 0 ]; then rm -f "$1"; else [ "$(size_of "$1")" = "$2" ] || exit {DISTURBED}; fi
exec cat >>"$1"
"""

# $1 target, $2 partial, $3 digest
SETTLE = rf"""
if [ -f "$2" ] && [ "$(digest "$2")" = "$3" ]; then mv -f "$2" "$1"; else rm -f "$2"; exit {DISTURBED}; fi
"""

# Runs in the job's own session. The exit code goes where there is already room for it, even on a full disk.
RUNNER = r"""
job=$1 script=$2; shift 2
sh -c "$script" sh "$@"
printf '%-8s\n' "$?" 1<>"$job/code"
"""

# $1 root, $2 job, $3 token, $4 runner, $5 script, then its arguments
START = rf"""
cd "$1" || exit 1
job=$1/{JOBS}/$2 token=$3 runner=$4; shift 4
mkdir -p "${{job%/*}}" || exit 1
until mkdir "$job" 2>/dev/null; do
    [ -d "$job" ] || {{ mkdir "$job"; exit 1; }}
    # Whoever made it may still be at it: an earlier try of ours, whose answer was lost, or somebody else.
    tries=0
    while
        there= code= pid= start= boot=
        {{ read -r there <"$job/token"; read -r code <"$job/code"; read -r pid start boot <"$job/pid"; }} 2>/dev/null
        [ -z "$pid" ] && [ "$tries" -lt 30 ]
    do
        pause 0.1
        tries=$((tries + 1))
    done
    boot_id
    if [ "$there" = "$token" ] && [ -n "$pid" ]; then echo "$boot"; exit 0; fi
    started "$pid"
    if [ -z "$code" ] && [ -n "$started" ] && [ "$boot $started" = "$boot_id $start" ]; then exit {RUNNING}; fi
    stop "$job" && rm -rf "$job" || exit 1
done
blank='        '
cat >"$job/token" <<END && cat >"$job/code" <<END && cat >"$job/pid" <<END || {{ rm -rf "$job"; exit 1; }}
$token
END
$blank
END
$blank$blank$blank$blank$blank$blank$blank$blank$blank$blank
END
if [ -n "$locale" ]; then LC_ALL=$locale; else unset LC_ALL; fi
if command -v setsid >/dev/null 2>&1; then
    setsid sh -c "$runner" sh "$job" "$@" </dev/null >"$job/stdout" 2>"$job/stderr" &
else
    python3 -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' \
        sh -c "$runner" sh "$job" "$@" </dev/null >"$job/stdout" 2>"$job/stderr" &
fi
pid=$!
# Recorded from here, not by the job itself: an emulator may give a process a made-up /proc/self/stat.
start= tries=0
while started "$pid"; [ -n "$started" ] && [ "$tries" -lt 100 ]; do
    start=$started
    [ -z "$(members "$pid")" ] || break
    pause 0.05
    tries=$((tries + 1))
done
boot_id
printf '%s %s %s\n' "$pid" "${{start:--}}" "$boot_id" 1<>"$job/pid"
echo "$boot_id"
"""

# $1 job's folder, $2 the token that it must have, if any
STOP = r"""
if [ -n "$2" ]; then
    there=
    { read -r there <"$1/token"; } 2>/dev/null
    [ "$there" = "$2" ] || exit 0
fi
stop "$1"
"""

# $1 job's folder, $2 rounds to wait, $3 how much of stderr is known (- if nobody asks)
POLL = rf"""
boot_id
here=$boot_id
[ -d "$1" ] || {{ echo "missing 0 0 $here"; exit 0; }}
code=0 state=running round=0
while :; do
    code= pid= start= boot=
    {{ read -r code <"$1/code"; read -r pid start boot <"$1/pid"; }} 2>/dev/null
    [ -z "$code" ] || {{ state=ended; break; }}
    if [ -n "$pid" ]; then
        started "$pid"
        if [ "$boot" != "$here" ]; then state=restarted; break; fi
        if [ "$started" != "$start" ]; then
            read -r code <"$1/code"
            if [ -n "$code" ]; then state=ended; else state=killed; fi
            break
        fi
    fi
    round=$((round + 1))
    [ "$round" -lt "$2" ] || break
    sleep {POLL_SECONDS} 2>/dev/null || break
done
from=0
if command -v tail >/dev/null 2>&1 && [ "$3" != - ]; then from=$3; fi
echo "$state ${{code:-0}} $from $here"
if [ "$3" = - ]; then :
elif [ "$from" = 0 ]; then cat "$1/stderr"
else tail -c "+$((from + 1))" "$1/stderr"; fi 2>/dev/null || :
"""

OUTPUT = r"""cat "$1/stdout" && cat "$1/stderr" >&2"""

FETCH = rf"""
[ -f "$1" ] || exit {ABSENT}
exec cat "$1"
"""

# $1 folder
LIST = rf"""
cd "$HOME/$1" 2>/dev/null || exit 0
for file in * .*.part {JOBS}/*; do
    case $file in {JOBS}) continue ;; esac
    [ ! -e "$file" ] || echo "$file"
done
"""

# $1 folder
CLEAN = rf"""
: "${{HOME:?}}"
root=$HOME/$1
[ -d "$root" ] || exit 0
for job in "$root/{JOBS}"/*; do
    [ ! -d "$job" ] || stop "$job" || {{ echo "a process of ${{job##*/}} cannot be ended" >&2; exit 1; }}
done
for part in "$root"/.*.part "$root"/*/.*.part; do fence "$part"; done
rm -rf "$root"
"""

PYTHON_FACTS = r"""
import os, platform, sys
print("version", platform.python_version())
print("bits", 64 if sys.maxsize > 2**32 else 32)
print("machine", platform.machine())
disk = os.statvfs(sys.argv[1])
print("free", disk.f_bavail * disk.f_frsize)
try:
    print("glibc", os.confstr("CS_GNU_LIBC_VERSION").split()[-1])
except (AttributeError, OSError, ValueError):
    pass
"""

# $1 folder, $2 Python's part
FACTS = r"""
exec 2>/dev/null
folder=$HOME/$1
[ -d "$folder" ] || folder=$HOME
say() { echo; echo "@@ $1"; }
say machine; uname -m
say boot; cat /proc/sys/kernel/random/boot_id
say memory; cat /proc/meminfo
say cpu; cat /proc/cpuinfo
say disk; df -Pk "$folder"
say glibc; getconf GNU_LIBC_VERSION
say python; python3 -c "$2" "$folder"
:
"""
