// Command zap runs containers that can travel: an OCI runtime with runc's
// command line, pods with an address of their own, and `zap migrate`, which
// moves a pod to another host with its connections open.
package main
