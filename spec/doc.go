// Package spec says what to run: an OCI bundle, checked before anything is made of it, and the list of what another host
// must have to take it over.
//
// A [Bundle] is a directory with a config.json as the OCI runtime specification describes it. [Load] reads it with a bound
// on its size and checks every field that zap or the kernel would trip over later, so that an error names the place in the
// file and not the system call that failed. The package makes no system call on the container's behalf and changes nothing
// on the machine.
package spec
