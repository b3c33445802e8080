package criu

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// checkLimit bounds one `criu check`.
const checkLimit = 20 * time.Second

// Feature is one of CRIU's named kernel features.
type Feature struct {
	Name    string
	Present bool
	Detail  string // what CRIU said when it is not there
}

// FeatureNames are the features that matter to zap, by CRIU's names.
var FeatureNames = []string{
	"mem_dirty_track", "uffd", "uffd-noncoop", "pagemap_scan", "timens", "clone3_set_tid",
	"pidfd_store", "move_mount_set_group", "overlayfs_maps", "get_rseq_conf", "sockopt_buf_lock", "openat2",
}

// CheckFeatures asks CRIU b for each of the names, with `criu check --feature`
// in a mount namespace of its own. Only few can be asked for over its socket.
// Cache is as in Env. An error means that CRIU could not be run at all.
func CheckFeatures(ctx context.Context, b *Binary, cache string, names ...string) ([]Feature, error) {
	e := Env{Cache: cache}
	kdat, err := kernelFacts(ctx, b, e)
	if err != nil {
		return nil, fmt.Errorf("check criu's features: %w", err)
	}
	var list []Feature
	for _, name := range names {
		ok, out, err := e.run(ctx, b.Path, kdat, "--no-default-config", "check", "--feature", name)
		if err != nil {
			return nil, fmt.Errorf("check criu's feature %s: %w", name, err)
		}
		f := Feature{Name: name, Present: ok}
		if !ok {
			f.Detail = lastMessage(out)
		}
		list = append(list, f)
	}
	return list, nil
}

// Check runs `criu check`, which fails when the kernel lacks something that
// every dump or restore needs. The error is what CRIU says.
func Check(ctx context.Context, b *Binary, cache string) error {
	e := Env{Cache: cache}
	kdat, err := kernelFacts(ctx, b, e)
	if err != nil {
		return fmt.Errorf("check criu: %w", err)
	}
	ok, out, err := e.run(ctx, b.Path, kdat, "--no-default-config", "check")
	if err == nil && !ok {
		err = fmt.Errorf("%s", lastMessage(out))
	}
	if err != nil {
		return fmt.Errorf("check criu: %w", err)
	}
	return nil
}

// run runs one command of CRIU in e to its end and returns whether it
// succeeded and what it wrote.
func (e *Env) run(ctx context.Context, binary string, kdat []byte, args ...string) (ok bool, out string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, checkLimit, fmt.Errorf("no end within %v", checkLimit))
	defer cancel()
	p, err := e.spawn(binary, args, nil, kdat)
	if err != nil {
		return false, "", err
	}
	defer p.release()
	stop := context.AfterFunc(ctx, func() { _ = p.Kill() })
	defer stop()
	state, err := p.Wait()
	if err != nil {
		return false, "", fmt.Errorf("wait for criu: %w", err)
	}
	if ctx.Err() != nil && !state.Success() {
		return false, "", context.Cause(ctx)
	}
	return state.Success(), p.text(), nil
}

// lastMessage returns the last line of CRIU's output without its level and
// source place: "Dirty tracking is OFF. Memory snapshot will not work."
func lastMessage(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if m := errorLine().FindStringSubmatch(last); m != nil {
		return m[3]
	}
	return last
}
