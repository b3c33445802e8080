package criu

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Error says why a request to CRIU came to nothing.
type Error struct {
	Verb   string        // what was asked for: "dump process tree 17", "restore process tree"
	Cause  string        // CRIU's first real complaint, in its own words, or what happened to the session
	Hint   string        // what to do about it; empty when nothing better than the cause is known
	Log    string        // path of CRIU's log; empty when there is none
	Errno  syscall.Errno // CRIU's own error number; 0 when it gave none
	Killed bool          // CRIU was ended with SIGKILL: a dumped tree's TCP sockets may be left in repair mode
	Err    error         // the error of a callback, of the context or of the socket, if that was the reason

	refused bool // it was a callback that said no
}

// verbRestore is the Verb of a restore.
const verbRestore = "restore process tree"

// InRestore says whether err has come up because CRIU could not restore.
func InRestore(err error) bool {
	var failure *Error
	return errors.As(err, &failure) && failure.Verb == verbRestore
}

// Error returns "verb: cause (hint; log path)".
func (e *Error) Error() string {
	s := "criu: " + e.Verb + ": " + e.Cause
	var more []string
	if e.Hint != "" {
		more = append(more, e.Hint)
	}
	if e.Log != "" {
		more = append(more, "log "+e.Log)
	}
	if e.Killed {
		more = append(more, "CRIU was killed")
	}
	if len(more) > 0 {
		s += fmt.Sprintf(" (%s)", strings.Join(more, "; "))
	}
	return s
}

// Unwrap returns the callback's or context's error behind e.
func (e *Error) Unwrap() error { return e.Err }
