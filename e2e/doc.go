// Package e2e is a laboratory of hosts, and the tests that move real programs between them.
//
// A host is a network namespace with a bridge and a --root of its own; a namespace that plays the switch joins it to the
// others and to the clients. What runs in a host is the zap binary, with the machine's kernel, CRIU and cgroups. Nothing is
// simulated but the cable. The tests need root and skip without it; they leave no process, link, mount, cgroup or file
// behind, and say what was left by zap.
//
// ZAP_BIN (or ZAP) names the binary under test; without it the tests build one. ZAP_E2E_MOVES is how often the endurance
// test moves its pod, ZAP_E2E_KEEP=1 keeps the files of tests that did not pass.
package e2e
