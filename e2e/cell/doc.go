// Package cell runs a test program on a machine of its own: in namespaces and cgroups that nothing else uses.
//
// The program is started again as the third of three processes. The first joins a new cgroup in every hierarchy; the second
// is the init of new pid, mount, network, IPC, UTS and cgroup namespaces, in which it mounts copies that can be written to over the
// directories that engines and their settings use; the third runs the tests. When the third ends, so does all that the
// tests have left behind.
package cell
