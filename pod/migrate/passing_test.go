package migrate

import (
	"errors"
	"fmt"
	"testing"

	"github.com/zap-migrate/zap/criu"
)

func TestPassing(t *testing.T) {
	inFlight := &criu.Error{Verb: "dump process tree 17", Cause: "inet: In-flight connection (l) for 7"}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("silent for 5s"), false},
		{inFlight, false}, // who knows whether the pod runs
		{&AbortedError{Err: fmt.Errorf("move: %w", inFlight)}, true},
		{&AbortedError{Err: &criu.Error{Cause: "unix: Can't dump half of stream unix connection"}}, false},
	} {
		if got := Passing(c.err); got != c.want {
			t.Errorf("Passing(%v) = %v", c.err, got)
		}
	}
}
