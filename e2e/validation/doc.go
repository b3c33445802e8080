// Package validation is the validation programs of opencontainers/runtime-tools, which others wrote, run against zap.
//
// The programs are Go tools of the module file .ci/validation.mod; the test builds them into build/validation, once. They run on a
// private machine (package cell). Every one has to pass that is not in the table of those that can't, with the reason.
//
// ZAP_BIN (or ZAP) names the binary under test; without it the tests build one. RUNTIME names another runtime to compare with.
package validation
