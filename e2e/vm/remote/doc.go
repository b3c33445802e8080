// Package remote runs commands on another machine, one TCP connection each, with their standard streams, signals and exit codes.
//
// It is how tests reach the guests of package vm. There is no authentication: a [Server] listens on a network that only the test's
// own namespaces reach. A connection begins with a frame of type request; then both sides send what the streams carry, and the last
// frame is the exit. A command whose connection breaks is killed with its process group, so that nothing outlives a test that died.
package remote
