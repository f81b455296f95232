#!/usr/bin/env bash
# What a RunPod pod does when it starts: packages, SSH, git, this repository; at the end it does exec /start.sh, the image's.
# As the pod's start command (docs/pods.md):
#   bash -c 'curl -fsSL https://raw.githubusercontent.com/YOU/nanochat/master/runpod_onstart.sh | bash'
# It reads the variables of env.example, may run any number of times, and prints no secret. Whatever fails is said, and
# the pod comes up all the same.
# NANOCHAT_POD_ROOT: a folder to take for /. NANOCHAT_POD_GITHUB: another server than https://github.com.
set +x # which would print secrets
set -euo pipefail

root="${NANOCHAT_POD_ROOT:-}"
github="${NANOCHAT_POD_GITHUB:-https://github.com}"
packages=(
    git nano screen vim ninja-build build-essential python3-dev python3-venv libnuma1 libnuma-dev
    pkg-config curl ca-certificates wget unzip openssh-server
)
# Asks the environment when git needs a password, so that the token is in no command, address or file.
# shellcheck disable=SC2016
helper='!f() { test "$1" = get && test -n "$GITHUB_PAT" && printf "username=x-access-token\npassword=%s\n" "$GITHUB_PAT"; }; f'

say() { printf '==> %s\n' "$*"; }
warn() { printf 'WARNING: %s\n' "$*" >&2; }

# Without control characters.
plain() { printf '%s' "$1" | tr -d '[:cntrl:]'; }

# What programs print, with *** in place of the secrets.
hide() {
    local line secret
    while IFS= read -r line || [ -n "$line" ]; do
        for secret in "${GITHUB_PAT:-}" "${HF_TOKEN:-}" "${WANDB_API_KEY:-}"; do
            secret="${secret//[$'\r\n']/}"
            if [ -n "$secret" ]; then line="${line//"$secret"/***}"; fi
        done
        printf '%s\n' "$line"
    done
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get "$@" -q -o Acquire::Retries=3 -o Acquire::http::Timeout=20 \
        -o DPkg::Lock::Timeout=120 </dev/null 2>&1 | hide
}

install_packages() {
    local try name updated="" missing=()
    for try in 1 2 3; do
        if apt update; then
            updated=yes
            if apt install -y "${packages[@]}"; then return; fi
        fi
        warn "apt-get failed (try $try of 3)"
        sleep "${NANOCHAT_POD_PAUSE:-5}"
    done
    [ -n "$updated" ] || return # without a network
    # One that this system does not have must not keep the others away.
    for name in "${packages[@]}"; do
        apt install -y "$name" >/dev/null || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] || warn "not installed: ${missing[*]}"
}

start_ssh() {
    local keys="$HOME/.ssh/authorized_keys" key
    mkdir -p "$HOME/.ssh" && chmod 700 "$HOME/.ssh" || return
    if [ -n "${PUBLIC_KEY:-}" ]; then
        touch "$keys" && chmod 600 "$keys" || return
        [ -z "$(tail -c 1 "$keys")" ] || echo >>"$keys"
        while IFS= read -r key; do
            key="${key%$'\r'}"
            if [ -z "$key" ] || grep -qxF -e "$key" "$keys"; then continue; fi
            printf '%s\n' "$key" >>"$keys" || return
        done <<<"$PUBLIC_KEY"
        say "SSH: the public key is set"
    else
        warn "PUBLIC_KEY is not set: nobody can log in over SSH with a key"
    fi
    service ssh start 2>&1 | hide || return
    say "SSH is running: ssh, scp and sftp work"
}

# Shells of ssh do not get the container's variables: this hands on what the first process has, from its memory.
write_profile() {
    local file="$root/etc/profile.d/nanochat.sh"
    mkdir -p "${file%/*}" || return
    cat >"$file.part" <<'PROFILE' || return
# Written by nanochat's runpod_onstart.sh. It holds no secret: it reads them from the first process.
if [ -n "${BASH_VERSION:-}" ] && [ -r "${NANOCHAT_POD_ENVIRON:-/proc/1/environ}" ]; then
    while IFS= read -r -d '' nanochat_line; do
        case "${nanochat_line%%=*}" in
            HF_TOKEN | HUGGING_FACE_HUB_TOKEN | WANDB_API_KEY | WANDB_RUN | GITHUB_PAT | NANOCHAT_BASE_DIR | NPROC_PER_NODE)
                [ -n "$(printenv "${nanochat_line%%=*}")" ] || export "$nanochat_line"
                ;;
        esac
    done 2>/dev/null <"${NANOCHAT_POD_ENVIRON:-/proc/1/environ}"
    if [ -n "${HF_TOKEN:-}" ]; then export HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; fi
    unset nanochat_line
fi
PROFILE
    mv "$file.part" "$file"
}

set_identity() {
    if [ -n "${GIT_USER_NAME:-}" ]; then
        git config --global user.name "$GIT_USER_NAME" || return
        say "git user.name: $(plain "$GIT_USER_NAME")"
    fi
    if [ -n "${GIT_USER_EMAIL:-}" ]; then
        git config --global user.email "$GIT_USER_EMAIL" || return
        say "git user.email: $(plain "$GIT_USER_EMAIL")"
    fi
}

# git, with the token if there is one. A stalled network ends it, and it asks nobody.
git_remote() {
    local with=()
    if [ -n "${GITHUB_PAT:-}" ]; then
        export GITHUB_PAT
        with=(-c "credential.$github.helper=" -c "credential.$github.helper=$helper")
    fi
    GIT_TERMINAL_PROMPT=0 GIT_HTTP_LOW_SPEED_LIMIT=1000 GIT_HTTP_LOW_SPEED_TIME=60 \
        timeout 1200 git "${with[@]}" "$@" </dev/null 2>&1 | hide
}

# Take a token out of the addresses that git keeps, where an older script left it.
clean_addresses() {
    local files=()
    mapfile -t files < <(grep -rlIE --exclude-dir={objects,hooks} 'https?://[^/[:space:]"]+@' "$1/.git" 2>/dev/null)
    [ ${#files[@]} -gt 0 ] || return 0
    sed -E -i 's#(https?://)[^/[:space:]"]+@#\1#g' "${files[@]}" || return
    say "A token was kept in the address of $1: it is taken out (and best replaced by a new one)"
}

get_repository() {
    local folder="$root/workspace/nanochat" name="${GIT_USERNAME:-originalzen}" found
    unset GIT_TRACE GIT_TRACE_CURL GIT_TRACE_PACKET GIT_CURL_VERBOSE # which can print what is sent
    mkdir -p "$root/workspace" || return
    if ! command -v git >/dev/null; then
        warn "git is not installed: nothing is fetched, and nothing changed"
        return 0
    fi
    if [ -d "$folder/.git" ]; then
        clean_addresses "$folder" || warn "a token may still be in $folder/.git"
        if [ ! -O "$folder" ] || [ ! -O "$folder/.git" ]; then # a volume of another user's
            git config --global --get-all safe.directory | grep -qxF -e "$folder" ||
                git config --global --add safe.directory "$folder" || return
        fi
        if git -C "$folder" rev-parse -q --verify HEAD >/dev/null 2>&1 ||
            ! found="$(git -C "$folder" for-each-ref --count=1)" || [ -n "$found" ]; then
            say "nanochat is here already: looking for something newer"
            git_remote -C "$folder" pull --ff-only ||
                warn "$folder stays as it is: it could not be brought up to date (see above)"
            return 0
        fi
        mv "$folder" "$folder.unfinished-$(date +%s)" || return # a clone that was cut short has no branch
    elif [ -e "$folder" ] && [ -n "$(ls -A "$folder")" ]; then
        warn "$folder is there and is no git repository: it stays as it is"
        return 0
    fi
    if [[ ! $name =~ ^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$ ]]; then
        warn "GIT_USERNAME is not the name of a GitHub account: nothing is cloned"
        return 0
    fi
    say "Cloning $github/$name/nanochat.git"
    rm -rf "$folder.new" # so that a clone which is cut short leaves nothing that looks whole
    { git_remote clone "$github/$name/nanochat.git" "$folder.new" && mv -T "$folder.new" "$folder"; } || {
        warn "nanochat could not be cloned (see above)$([ -n "${GITHUB_PAT:-}" ] || echo ': a private fork needs GITHUB_PAT')"
        return 0
    }
}

# Later calls of git in this folder find the token in the environment, too.
keep_helper() {
    local folder="$root/workspace/nanochat" key="credential.$github.helper"
    if [ -z "${GITHUB_PAT:-}" ] || [ ! -d "$folder/.git" ]; then return 0; fi
    git -C "$folder" config --replace-all "$key" "" && git -C "$folder" config --add "$key" "$helper"
}

is_set() { if [ -n "${!1:-}" ]; then echo "set"; else echo "not set${2:-}"; fi; }

show_summary() {
    local folder="$root/workspace/nanochat" commit
    commit="$(git -C "$folder" rev-parse --short HEAD 2>/dev/null)" || commit="absent"
    cat <<SUMMARY

nanochat: $folder ($commit)
  HF_TOKEN:       $(is_set HF_TOKEN ' (needed to keep the run on the Hub)')
  WANDB_API_KEY:  $(is_set WANDB_API_KEY)
  GITHUB_PAT:     $(is_set GITHUB_PAT)
  PUBLIC_KEY:     $(is_set PUBLIC_KEY)

To train, in a terminal of this pod:
  cd $folder
  export NANOCHAT_BASE_DIR=$(printf %q "${NANOCHAT_BASE_DIR:-/workspace/nanochat-base}")   # the volume outlives a stopped pod
  export WANDB_RUN=$(printf %q "${WANDB_RUN:-nanochat_d24}")
  screen -L -Logfile speedrun.log -S speedrun bash speedrun.sh
Leave the screen with Ctrl+A, then D; come back with: screen -r speedrun. Watch it: tail -f speedrun.log
SUMMARY
    if [ -n "${RUNPOD_POD_ID:-}" ]; then
        echo "Then, to talk to it: .venv/bin/python -m scripts.chat_web, which prints a link to https://$(plain "$RUNPOD_POD_ID")-8000.proxy.runpod.net"
    fi
    echo
}

main() {
    export HOME="${HOME:-$root/root}" PIP_ROOT_USER_ACTION=ignore
    if [ -n "${HF_TOKEN:-}" ]; then export HF_TOKEN HUGGING_FACE_HUB_TOKEN="$HF_TOKEN"; fi
    if [ -n "${WANDB_API_KEY:-}" ]; then export WANDB_API_KEY; fi
    install_packages || warn "not all packages could be installed"
    start_ssh || warn "SSH could not be set up"
    write_profile || warn "shells of ssh will not have this pod's variables"
    set_identity || warn "git's identity could not be set"
    get_repository || warn "nanochat could not be fetched"
    keep_helper || warn "git will not find GITHUB_PAT by itself"
    show_summary || true
    cd "$root/workspace/nanochat" 2>/dev/null || cd "$root/workspace" 2>/dev/null || true
    if [ -x "$root/start.sh" ]; then exec "$root/start.sh"; fi
    warn "this image has no /start.sh: waiting, so that the pod stays up"
    exec sleep infinity
}

main # at the end: a script that arrives through a pipe runs whole or not at all
