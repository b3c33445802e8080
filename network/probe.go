package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LackError says that the kernel lacks a part that pods' networks are made of.
type LackError struct {
	Module string // of the kernel, by its name
	Err    error
}

// Error names the module and what the kernel answered.
func (e *LackError) Error() string { return fmt.Sprintf("%v (kernel module %s)", e.Err, e.Module) }

// Unwrap returns the kernel's answer.
func (e *LackError) Unwrap() error { return e.Err }

// Probe makes a pod's network with a namespace that stands for the host, cuts it off in all ways that a move needs, and takes it down. The
// error is a *LackError when it is known which part of the kernel is missing. It needs root.
func Probe(ctx context.Context) error {
	return inNewNamespace(func() error { return probe(ctx) })
}

func probe(ctx context.Context) (err error) {
	n, err := New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	config := Config{HostLink: "zap-probe", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
	for _, step := range []struct {
		module string
		do     func(context.Context) error
	}{
		{"veth", func(ctx context.Context) error { return n.Set(ctx, config) }},
		{"nf_tables", n.Mute},
		{"nf_tables", n.Lock},
		{"nf_tables", n.Unlock},
		{"nft_fwd_netdev", n.Gate},
		{"", n.Ungate},
		{"", n.Remove},
	} {
		err := step.do(ctx)
		if step.module != "" && lacking(err) {
			err = &LackError{Module: step.module, Err: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lacking says whether an error is what a kernel answers that does not know what it was asked for.
func lacking(err error) bool {
	for _, e := range []unix.Errno{unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// ProbeBridge makes a bridge in a namespace of its own. The error is a *LackError when the kernel has no bridges. It needs root.
func ProbeBridge() error {
	return inNewNamespace(func() error {
		err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "zap-probe"}})
		if lacking(err) {
			err = &LackError{Module: "bridge", Err: err}
		}
		return err
	})
}

// inNewNamespace calls f on a thread in a network namespace of its own.
func inNewNamespace(f func() error) error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		return f()
	})
}
