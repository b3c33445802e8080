// Package vm is a laboratory of virtual machines with kernels of their own: what package e2e shows between namespaces of one kernel, its tests
// show between independent operating systems.
//
// A machine is a QEMU that boots a stock Debian kernel of a chosen suite with an initramfs that holds that kernel's modules and our own first
// process (package agent), and a root disk with Debian's userland, the same for all. It is a host of an e2e laboratory like any other: its
// card is a port of the laboratory's switch, clients and pods are e2e's, commands run through package remote over a network that only
// serves that. A machine can be killed, as by pulling its plug, and booted again, with another kernel if wanted, and finds what it had
// synced to its data disk.
//
// Everything comes from Debian's archive by the addresses and keys of this machine's own apt, and is unpacked below $ZAP_VM_CACHE
// (/var/cache/zap-vm) in directories named for what went in, QEMU included, because that of Debian 12 miscomputes flags in emulation and
// panics guests. Nothing is installed. What has not been used for a week is removed.
//
// Environment: ZAP_VM=1 lets the tests run at all (make test-vm, make test-guest set it). ZAP_VM_ACCEL=kvm uses the processor's virtualization; by
// default machines are emulated, which is ten to twenty times slower and works everywhere. ZAP_E2E_KEEP=1 keeps the files of tests that failed.
// ZAP_VM_BENCH=FILE compares moves with zap and by hand and writes the table there (make bench-vm).
package vm
