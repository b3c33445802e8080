// Package cgroup holds a container's processes together: one group of the same path in every cgroup hierarchy of the host,
// with resource limits on it, that can be frozen, counted, killed to the last process and removed.
//
// It knows the three layouts a Linux host can have, see [Mode]: "v1" (a hierarchy per controller), "v2" (one hierarchy) and
// "hybrid" (controllers on v1, and an empty v2 tree beside them). On a hybrid host the group exists in the v2 tree as well,
// because cgroup.kill there reaches a whole tree in one system call, forks included.
//
// Limits are planned first, without a side effect, as a list of values for files (see sections), and then written. The
// statistics that zap itself needs are github.com/containerd/cgroups' business. Creating, limiting, freezing, killing and removing are done here: the library's constructor reads mountinfo and sysfs and looks at
// every directory several times (0.9 ms for the nine hierarchies of the machine it was measured on, where ten mkdir calls
// take 0.2 ms), sleeps between polls of the freezer and takes no context; and it writes values that the kernel checks
// against each other in one order only.
//
// Every wait is bounded by its context, and by [MaxWait] where that has no deadline.
package cgroup
