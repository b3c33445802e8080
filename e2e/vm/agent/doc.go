// Package agent is the program inside the guests of package vm: their first process, which makes a running system out of a kernel and a root
// disk without any init system, and the server that runs the tests' commands. On the test's side the same binary is the client.
//
//	agent                                   as process 1: set the machine up, then serve
//	agent serve                             run commands for who connects to port 77
//	agent exec ADDR -- COMMAND [ARG...]     run a command on a machine, as if it were here
//
// Process 1 reads zap.* words from the kernel's command line: zap.name and zap.number are the machine's, zap.cgroup is v2, v1 or hybrid,
// zap.criu is the suite of the CRIU that zap finds first, zap.without names kernel modules to leave out, separated by commas.
//
// exec passes the variables of its environment on that begin with ZAP_.
package main
