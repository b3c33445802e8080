// Package preflight looks at a running pod and reports everything in it that CRIU, with what zap carries beside it, can't
// carry to another host.
//
// It knows what CRIU 4.2 refuses, from its source and from trying: the tests dump every kind with the real CRIU. A few things
// that CRIU takes, but would restore as something else, are reported too: the other end of a pipe that is outside, nested
// network and mount namespaces, sockets of a foreign network namespace, fanotify on whole file systems, kernel TLS.
//
// It looks from outside, through /proc, pidfd_getfd(2) and sock_diag(7), and changes nothing in the pod. What can't be seen
// that way, or only at a cost, is left to CRIU: seccomp listeners that a process outside holds, restrictions by Landlock, who
// else holds a pipe of which the pod has both ends, and files that an epoll set watches while they are on their way through a
// socket.
package preflight
