// Package boot is a container's start as a program of system calls.
//
// Compile turns an OCI specification and some facts about the host into a Program: a flat slice of operations, each one system call with
// up to six arguments, the errors it may end with, and its origin, the place in config.json that asked for it. Compiling makes no system
// call, so that its result is tested by reading it: Program.String looks like an strace.
//
// Program.Start runs it in a child made by clone3. The child has one thread, allocates nothing, never returns to the Go runtime and
// ends in execve. A failing operation is reported over a close-on-exec socket as its index and errno; the parent answers with what it
// was about: `mount tmpfs on /dev/shm: operation not permitted (config.json: mounts[3])`.
package boot
