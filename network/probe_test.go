package network

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProbe(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	if err := Probe(t.Context()); err != nil {
		t.Errorf("the network that other tests of this package use: %v", err)
	}
	if err := ProbeBridge(); err != nil {
		t.Errorf("the bridge that other tests of this package use: %v", err)
	}
}

// TestLacking tells what a kernel does not know from what it does not like.
func TestLacking(t *testing.T) {
	for err, want := range map[error]bool{
		fmt.Errorf("add link: %w", unix.EOPNOTSUPP): true, fmt.Errorf("add rule: %w", unix.ENOENT): true, unix.EPERM: false, unix.ENOMEM: false, nil: false,
	} {
		if got := lacking(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if err := error(&LackError{Module: "veth", Err: unix.EOPNOTSUPP}); !errors.Is(err, unix.EOPNOTSUPP) || err.Error() != "operation not supported (kernel module veth)" {
		t.Error(err)
	}
}
