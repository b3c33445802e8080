#!/bin/bash
# byhand.sh moves a container between two machines with its connections open, with runc, CRIU and what every machine has. It is what zap is
# compared with. It runs on both machines: "give" on the one that the container leaves, "take" on the other, begun beside each other.
#   prepare         make everything but the container: overlay, network namespace with a link that is down, bundle
#   start           run the container, on the network
#   give MODE PEER  checkpoint it and send images and files to PEER
#   take MODE       receive them, restore it, announce where it is
#   remove          remove whatever is there
# MODE is stop, or pre: two pre-dumps while it runs, then what is left.
#   ID of the container   ROOTFS lower layer   ARGS its argv, as JSON   IP, MAC its addresses
set -Eeuo pipefail
base=/pods/$ID
port=7801
PATH=/usr/local/lib/zap/criu/sbin:$PATH # the same CRIU as zap's

prepare() {
  mkdir -p /pods
  mount -t tmpfs -o mode=755 pods /pods
  mkdir -p "$base"/{rootfs,upper,work,images,log}
  mount -t overlay -o "lowerdir=$ROOTFS,upperdir=$base/upper,workdir=$base/work" overlay "$base/rootfs"
  ip netns add "$ID"
  # Nothing of the container's must be heard here while it runs elsewhere, so the link is down and there is no IPv6.
  # A bridge takes the lowest address of its ports for its own, unless theirs is higher than all others.
  ip link add hand0 address "fe:${MAC#*:}" type veth peer name eth0 address "$MAC" netns "$ID"
  ip link set hand0 up master br0
  ip netns exec "$ID" sysctl -qw net.ipv6.conf.all.disable_ipv6=1
  ip -n "$ID" link set lo up
  ip -n "$ID" addr add "$IP/24" dev eth0
  runc spec -b "$base"
  jq --argjson args "$ARGS" --arg root "$base/rootfs" --arg ns "/run/netns/$ID" --arg cg "/hand/$ID" \
    '.process.terminal = false | .process.args = $args | .root = {path: $root, readonly: false} | .linux.cgroupsPath = $cg
     | (.linux.namespaces[] | select(.type == "network")).path = $ns' "$base/config.json" > "$base/new.json"
  mv "$base/new.json" "$base/config.json"
}

announce() { ip netns exec "$ID" arping -q -c 1 -w 1 -U -I eth0 "$IP" || true; }

start() {
  ip -n "$ID" link set eth0 up
  runc run -d -b "$base" "$ID" </dev/null >/dev/null 2>&1
  announce
}

# shut has the namespace drop everything: until its sockets are there, the kernel would answer the client with resets.
shut() {
  ip netns exec "$ID" nft 'add table netdev gate; add chain netdev gate in { type filter hook ingress device "eth0" priority 0; policy drop; }'
}

# checkpoint NUMBER PARENT [OPTION...]
checkpoint() {
  local number=$1 parent=$2
  shift 2
  runc checkpoint --tcp-established --image-path "$base/images/$number" --work-path "$base/log/$number" \
    ${parent:+--parent-path "../$parent"} "$@" "$ID"
}

send() { tar -C "$base" -c "$@" | socat -u - "TCP:$peer:$port,retry=200,interval=0.02"; }
receive() { socat -u "TCP-LISTEN:$port,reuseaddr" - | tar -C "$base" -x; }

give() {
  peer=$2
  case $1 in
  stop)
    checkpoint 1 ''
    send images/1 upper
    ;;
  pre)
    checkpoint 1 '' --pre-dump
    send images/1
    checkpoint 2 1 --pre-dump
    send images/2
    checkpoint 3 2
    send images/3 upper
    ;;
  esac
}

take() {
  local number=1
  receive
  if [ "$1" = pre ]; then
    receive
    receive
    number=3
  fi
  shut
  ip -n "$ID" link set eth0 up
  runc restore -d --tcp-established -b "$base" --image-path "$base/images/$number" --work-path "$base/log/restore" "$ID" </dev/null >/dev/null 2>&1
  ip netns exec "$ID" nft delete table netdev gate
  announce
}

remove() {
  runc delete -f "$ID" >/dev/null 2>&1 || true
  ip netns del "$ID" 2>/dev/null || true
  ip link del hand0 2>/dev/null || true
  umount "$base/rootfs" 2>/dev/null || true
  umount /pods 2>/dev/null || true
}

trap 'tail -n 20 "$base"/log/*/*.log >&2 2>/dev/null || true' ERR
"$@"
