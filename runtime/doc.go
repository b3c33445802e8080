// Package runtime is the processes of one container, from creation to removal, and what is written down about them.
//
// A Runtime keeps one directory per container. Create compiles the specification to a program (package boot), places its process in a
// cgroup and leaves it waiting at a gate; Start opens the gate; Exec adds processes; Kill, Delete and List are what they say. There is no
// daemon: each call reads the container's state from disk, checks it against the kernel and locks the directory while it changes something.
package runtime
