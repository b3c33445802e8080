// Package engines is the tests of zap below podman and containerd, Debian's own, on a private machine (package cell). Images
// are made of this machine's busybox; nothing is fetched. The engines are told of zap by what `zap install-config` prints, and
// by nothing else.
//
// ZAP_BIN (or ZAP) names the binary under test; without it the tests build one. ENGINES_RUNTIME=runc lets podman use
// another runtime, to compare.
package engines
