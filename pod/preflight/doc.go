// Package preflight looks at a running pod and reports everything in it that
// CRIU can't carry to another host.
package preflight
