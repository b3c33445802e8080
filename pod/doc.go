// Package pod is what runs here: pods, the supervisor that owns each of them,
// their records, logs and control sockets.
//
// A pod is a container of package runtime with an identity that can travel: a
// name, a network namespace with its own addresses, a root file system of a
// read-only lower layer and a layer of its own, and standard streams that
// belong to its supervisor. The record of a pod is the Pod part of the
// container's state.json; there is no second one.
package pod
