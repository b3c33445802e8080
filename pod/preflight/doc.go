// Package preflight looks at a running pod and reports everything in it that CRIU can't carry to another host.
//
// It knows what CRIU 4.2 refuses, from its source and from trying each kind: the tests dump every one of them with the real
// CRIU. It looks from outside, through /proc, pidfd_getfd and sock_diag, and changes nothing in the pod. What can't be seen
// that way is left to CRIU: seccomp listeners that a process outside holds, restrictions by Landlock, and who else holds a
// pipe of which the pod has both ends.
package preflight
