package runtime

import (
	"strings"
	"testing"
	"time"
)

// TestTrace wants every operation of a start, in the order of the program, and the steps of the parent.
func TestTrace(t *testing.T) {
	l := newLab(t)
	trace := NewTrace(time.Now())
	null := devNull(t)
	c, err := l.runtime.Run(l.ctx, "trace", l.bundle("exit 0"), CreateOptions{Stdin: null, Stdout: null, Stderr: null, Trace: trace})
	if err != nil {
		t.Fatal(err)
	}
	defer l.remove(c)
	var out strings.Builder
	if err := trace.Write(&out); err != nil {
		t.Fatal(err)
	}
	at := -1
	for _, want := range []string{"make cgroup", "compile", "write the state", "first process, beside", "unshare(", "# config.json: mounts[0]", "pivot_root", "await", "execve("} {
		i := strings.Index(out.String(), want)
		if i <= at {
			t.Errorf("%q is missing or out of order", want)
		}
		at = i
	}
	if t.Failed() {
		t.Log(out.String())
	}
	for _, s := range append(trace.steps, trace.child...) {
		if s.Took < 0 || s.Text == "" {
			t.Errorf("%+v", s)
		}
	}
}
