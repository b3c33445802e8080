// Package criu drives a CRIU process: it finds the binary, starts `criu swrk`
// in an environment of its own, sends it requests and answers its callbacks.
//
// A [Session] is one such process. It is started ahead of time, answers a
// version request to show that it is up, and then takes exactly one Dump or
// Restore. While that runs CRIU calls back at fixed points ([Callbacks]) and
// waits for the answer, which is how a caller parks a tree before the point of
// no return. docs/criu.md says what CRIU does at each point, and what happens
// when one of the two processes dies there.
package criu
