package runtime

import (
	"errors"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestCreateWithoutMemory: what is too little to begin with is said to be.
func TestCreateWithoutMemory(t *testing.T) {
	l := newLab(t)
	b := l.bundle("true")
	b.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(4096)), Swap: new(int64(4096))}
	null := devNull(t)
	c, err := l.runtime.Create(l.ctx, "one", b, CreateOptions{Stdin: null, Stdout: null, Stderr: null})
	if err == nil {
		l.remove(c)
		t.Skip("needs a kernel that kills what begins in a page of memory")
	}
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("needs a memory controller: ", err)
	}
	if !strings.Contains(err.Error(), "container init was OOM-killed (memory limit too low?)") {
		t.Errorf("says %v", err)
	}
}
