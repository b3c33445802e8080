// Package seccomp is a compiler of the seccomp section of an OCI specification into the classic BPF that seccomp(2) takes.
//
// Compile makes a Policy (what happens to which system call of which ABI) and from it a program: a binary search over ranges of
// system call numbers, so that neither a call nor the kernel's own look at the filter goes through a list of hundreds. It makes no system
// call (SupportedFlags does) and needs no C library. What a profile means is what runc and crun make of it by way of libseccomp; see
// Policy for the rules.
//
// The numbers of the system calls are in table.go, which gen.go makes from golang.org/x/sys.
package seccomp

//go:generate go run gen.go
