package migrate

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/spec"
)

// kernelParts remembers that this machine's kernel has what pods are made of.
type kernelParts struct {
	mu      sync.Mutex
	network bool
}

// lacking says which parts of this host's kernel the pod would miss: modules that nobody has loaded and that it does not load by itself.
func (t *Target) lacking(ctx context.Context, o *Offer) []spec.Blocker {
	var found []spec.Blocker
	block := func(module string, err error) {
		found = append(found, spec.Blocker{
			Code: spec.BlockModule, Subject: module, Detail: "the target's kernel lacks it: " + err.Error(), Hint: "load it on the target: modprobe " + module,
		})
	}
	if o.Bundle.Overlay != nil {
		fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
		if err == nil {
			unix.Close(fd)
		}
		if errors.Is(err, unix.ENODEV) {
			block("overlay", err)
		}
	}
	if o.Network == nil {
		return found
	}
	t.kernel.mu.Lock()
	defer t.kernel.mu.Unlock()
	if t.kernel.network {
		return found
	}
	err := network.Probe(ctx)
	var lack *network.LackError
	switch {
	case err == nil:
		t.kernel.network = true
	case errors.As(err, &lack):
		block(lack.Module, lack.Err)
	default:
		t.Log.Warn("try a pod's network", "error", err.Error()) // the move will tell
	}
	return found
}
