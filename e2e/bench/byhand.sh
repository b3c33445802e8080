#!/bin/bash
# byhand.sh moves a container between two hosts with its connections as a careful user does it today: runc, CRIU, tar and ip.
# It is what zap is compared with.
#   bundle HOST    write the bundle, which can be there long before
#   run HOST       run the container there, on the network
#   move FROM TO   prepare TO, checkpoint, copy, restore, hand over the network, remove what is left on FROM
#   clear HOST     remove what is there
#   free HOST      remove the images there
# The hosts are network namespaces of one machine, so the commands for the other host are not behind ssh, which would take longer.
#   DIR     a directory per host is in it        LAB     prefix of the namespaces' names
#   ID      of the container                     ROOTFS  lower layer of its root file system
#   BRIDGE  of each host                         IP, IP6, MAC of the container; CIDR prefixes are /24 and /64
#   CGROUP  parent of the container's cgroup
#   PEER    the address of the host that receives
#   ARGS    the container's argv, as JSON
set -Eeuo pipefail
port=7801

on() { local host=$1; shift; nsenter --net=/run/netns/"$LAB-$host" -- "$@"; }
pod() { echo "$LAB-$1-pod"; }

# prepare makes everything but the container: overlay, network namespace and link, which is not on the bridge yet.
prepare() {
  local h=$1 d=$DIR/$1
  mkdir -p "$d"/{upper,work,merged,tmpfs,runc}
  mount -t overlay -o "lowerdir=$ROOTFS,upperdir=$d/upper,workdir=$d/work" overlay "$d/merged"
  mount -t tmpfs tmpfs "$d/tmpfs"
  mkdir -p "$d"/tmpfs/{img,log}
  ip netns add "$(pod "$h")"
  ip -n "$LAB-$h" link add hand0 type veth peer name eth0 address "$MAC" netns "$(pod "$h")"
  ip -n "$LAB-$h" link set hand0 up
  ip -n "$(pod "$h")" link set lo up
  nsenter --net=/run/netns/"$(pod "$h")" sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.eth0.accept_ra=0
  ip -n "$(pod "$h")" addr add "$IP/24" dev eth0
  ip -n "$(pod "$h")" link set eth0 up
  ip -n "$(pod "$h")" addr add "$IP6/64" dev eth0 nodad
}

bundle() {
  local h=$1 d=$DIR/$1
  mkdir -p "$d/bundle"
  runc spec -b "$d/bundle"
  echo 'network-lock nftables' > "$d/bundle/criu.conf"     # faster than iptables-restore, four times a move, and one package less
  jq --arg criu "$d/bundle/criu.conf" --argjson args "$ARGS" --arg root "$d/merged" --arg ns /run/netns/"$(pod "$h")" --arg cg "$CGROUP/$h-$ID" \
    '.process.terminal = false | .process.args = $args | .root = {path: $root, readonly: false} | .linux.cgroupsPath = $cg | .annotations["org.criu.config"] = $criu
     | (.linux.namespaces[] | select(.type == "network")).path = $ns' "$d/bundle/config.json" > "$d/bundle/new"
  mv "$d/bundle/new" "$d/bundle/config.json"
}

# attach puts the container on the network and tells the neighbours where it is.
attach() {
  ip -n "$LAB-$1" link set hand0 master "$BRIDGE"
  nsenter --net=/run/netns/"$(pod "$1")" busybox arping -q -A -c 1 -I eth0 "$IP" >/dev/null 2>&1 &
}

run() {
  prepare "$1"
  ip -n "$LAB-$1" link set hand0 master "$BRIDGE"
  on "$1" runc --root "$DIR/$1/runc" run -d -b "$DIR/$1/bundle" "$ID" </dev/null >/dev/null 2>&1
}

# receive unpacks what comes on the first connection.
receive() { cd "$DIR/$1"; on "$1" busybox nc -l -p $port -e "$(type -P tar)" -x -b 2048 --xattrs --xattrs-include='*' -f -; }

# send writes into the socket without another process between.
send() { cd "$DIR/$1"; on "$1" bash -c 'tar -c -b 2048 --xattrs --xattrs-include="*" -f - tmpfs/img upper > /dev/tcp/$0/$1' "$PEER" $port; }

move() {
  local a=$DIR/$1 b=$DIR/$2 t=$EPOCHREALTIME
  lap() { local now=$EPOCHREALTIME; echo "$1 $(( (${now/./} - ${t/./}) / 1000 ))"; t=$now; }
  prepare "$2"
  receive "$2" & local receiver=$!
  lap prepare
  ip -n "$LAB-$1" link set hand0 nomaster
  on "$1" runc --root "$a/runc" checkpoint --tcp-established --image-path "$a/tmpfs/img" --work-path "$a/tmpfs/log" "$ID"
  lap checkpoint
  (send "$1")
  wait $receiver
  lap copy
  on "$2" runc --root "$b/runc" restore -d --tcp-established -b "$b/bundle" --image-path "$b/tmpfs/img" --work-path "$b/tmpfs/log" "$ID" \
    </dev/null >/dev/null 2>&1
  attach "$2"
  lap restore
  clear "$1"
  lap clear
}

clear() {
  local d=$DIR/$1
  on "$1" runc --root "$d/runc" delete -f "$ID" >/dev/null 2>&1 || true
  ip netns del "$(pod "$1")" 2>/dev/null || true
  ip -n "$LAB-$1" link del hand0 2>/dev/null || true
  umount -l "$d"/{merged,tmpfs} 2>/dev/null || true
  rm -rf "$d"/{upper,work,merged,tmpfs,runc}
}

free() { rm -rf "$DIR/$1"/tmpfs/img/*; }

trap 'tail -n 20 "$DIR"/*/tmpfs/log/*.log >&2 2>/dev/null' ERR
"$@"
