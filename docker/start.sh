#!/bin/sh
# What the container does: the command it was given; without one it stays up, to be logged in to.
set -eu

if [ "$#" -gt 0 ]; then
    exec "$@"
fi

# A login through ssh gets its variables from this file, not from the container.
if [ "$(id -u)" = 0 ]; then
    rm -f /etc/environment
    umask 077 # a token of the Hub may be among them
    env | grep -E '^(HF|XDG|CUDA|NVIDIA)_' > /etc/environment
    umask 022
fi

if [ -n "${PUBLIC_KEY:-}" ]; then # RunPod's name for it
    mkdir -p /root/.ssh /run/sshd
    chmod 700 /root/.ssh
    printf '%s\n' "$PUBLIC_KEY" > /root/.ssh/authorized_keys
    ssh-keygen -A
    /usr/sbin/sshd -o PasswordAuthentication=no
fi

glance doctor || true # says what this machine lacks, in the host's log
exec sleep infinity
