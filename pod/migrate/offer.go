package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/preflight"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// prepare looks at the pod from all sides and makes the offer. Nothing of the
// pod changes.
func (s *Source) prepare(ctx context.Context) (err error) {
	p := s.Pod
	if status := p.Status(); status != pod.StatusRunning {
		return fmt.Errorf("pod %s is %s: only a running pod can move", p.ID(), status)
	}
	s.dial(ctx)
	if s.binary, err = criu.Find(ctx, s.Options.CacheDir); err != nil {
		return err
	}
	tried := make(chan error, 1)
	go func() { tried <- criu.Tried(ctx, s.binary, s.Options.CacheDir) }()
	defer func() { err = errors.Join(err, s.judgeTrial(ctx, <-tried)) }()
	if s.cgroup, err = p.Cgroup(); err != nil {
		return err
	}
	state := p.State()
	o := &Offer{Migration: pod.NewUID(), Pod: p.ID(), Bundle: state.Bundle, Record: p.Record, Status: string(p.Status())}
	plan, planErr := runtime.PlanMounts(state)
	if plan == nil {
		return planErr
	}
	o.Mounts = *plan
	if !p.Supervised() { // a container of the OCI verbs: a pod of one
		o.Record.UID, o.Record.TTY = pod.NewUID(), state.Bundle.Spec.Process.Terminal
		o.Record.Relayed = o.Record.TTY
		if err := nameStreams(p, &o.Record); err != nil {
			return err
		}
	}
	if p.Supervised() && o.Record.TTY {
		if a, err := pod.Ask(ctx, p.Dir(), pod.Request{Op: pod.OpStatus}); err == nil { // without it the terminal has the default size
			o.Rows, o.Columns = a.Rows, a.Columns
		}
	}
	s.checkNamespaces(state.Pid)
	if err := s.openNetwork(ctx, o); err != nil {
		return err
	}
	if err := s.identify(state.Bundle); err != nil {
		return err
	}
	o.Record.Layers = p.Record.Layers
	if o.Manifest, err = s.manifest(o); err != nil {
		return err
	}
	o.describeNetwork()
	s.offer = o
	s.files = &files{pod: p, bundle: state.Bundle, layers: o.Record.Layers, mounts: o.Mounts, pid: state.Pid}
	return s.blockers(planErr)
}

// openNetwork opens the pod's network namespace and describes it in the offer.
// A namespace that can't move is a blocker like others.
func (s *Source) openNetwork(ctx context.Context, o *Offer) error {
	net, cfg, err := podNetwork(ctx, s.Pod)
	s.net = net
	var unfit *network.UnfitError
	switch {
	case errors.As(err, &unfit):
		s.block(spec.BlockNetwork, unfit.Error(), "give the container one veth link whose other end is in a bridge, or none")
	case errors.Is(err, network.ErrHost):
		s.block(spec.BlockNetwork, "it uses the host's network", "run it in a network namespace of its own")
		return nil
	case err != nil:
		return err
	case s.Pod.Supervised() && cfg != nil:
		now, err := network.Snapshot(ctx, net, *cfg, freshNetwork(s.Pod))
		if err != nil {
			return err
		}
		cfg = &now
	}
	o.Network = cfg
	if s.Pod.Supervised() {
		return nil
	}
	return s.checkAlone()
}

// checkNamespaces wants a container to have those namespaces of its own that a
// pod can't be without, as its pids and mounts would meet others on the target,
// and none that zap can't make anew.
func (s *Source) checkNamespaces(pid int) {
	hosts := func(name string) bool {
		own, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		host, _ := os.Readlink("/proc/self/ns/" + name) // none on a kernel without this kind
		return own == host
	}
	if hosts("pid") {
		s.block(preflight.BlockNamespace, "it uses the host's process ids", "run it in a pid namespace of its own")
	}
	if hosts("mnt") {
		s.block(preflight.BlockNamespace, "it uses the host's mounts", "run it in a mount namespace of its own")
	}
	if !hosts("user") {
		s.block(preflight.BlockNamespace, "it has a user namespace, which can't be moved yet", "run it without one")
	}
}

// checkAlone wants the container of an engine to be alone in its network
// namespace, which stays when the container has left, and is silent then.
func (s *Source) checkAlone() error {
	users, err := s.net.Users()
	if err != nil {
		return err
	}
	own, err := s.cgroup.Procs()
	if err != nil {
		return err
	}
	for _, pid := range users {
		if slices.Contains(own, pid) {
			continue
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue // it has ended
		}
		s.block(spec.BlockNetwork, fmt.Sprintf("process %d (%s), which is not of it, is in its network namespace", pid, strings.TrimSpace(string(name))),
			"end it: the namespace is silent when the pod has left")
	}
	return nil
}

// block notes a reason in the pod itself why it can't move.
func (s *Source) block(code, detail, hint string) {
	s.found = append(s.found, spec.Blocker{Code: code, Subject: s.Pod.ID(), Detail: detail, Hint: hint})
}

// nameStreams says what the standard streams of an engine's container are
// outside of it, and what they will be on the target: /dev/null stays that,
// everything else becomes a pipe or terminal of the supervisor there.
func nameStreams(p *pod.Pod, r *pod.Record) error {
	if r.TTY {
		return nil
	}
	streams, err := p.Streams()
	if err != nil {
		return err
	}
	r.Stdin = streams.Names[0] != "" && !streams.Null[0] // whoever had the other end may have had more to say
	r.Streams, r.Null = streams.Names, streams.Null
	return nil
}

// identify names the pod's lower layers by their content and keeps the names.
func (s *Source) identify(b *spec.Bundle) error {
	if b.Overlay == nil {
		return nil
	}
	p := s.Pod
	layers, err := identifyLayers(s.Runtime.Root(), b.Overlay.Lower, p.Record.Layers)
	if err != nil || slices.Equal(layers, p.Record.Layers) {
		return err
	}
	return p.Update(func(r *pod.Record) { r.Layers = layers })
}

// blockers finds everything in the pod that CRIU can't carry.
func (s *Source) blockers(plan error) error {
	found, err := preflight.Inspect(s.Pod.State().Pid, s.cgroup, s.offer.Record.Streams, &s.offer.Mounts)
	if err != nil {
		return err
	}
	if plan != nil {
		s.block(spec.BlockMount, plan.Error(), "")
	}
	if l := s.offer.Bundle.Spec.Linux; l != nil {
		found = append(found, preflight.Supervised(s.Pod.ID(), l.Seccomp)...)
	}
	found = append(found, preflight.Attributes(s.Pod.ID(), s.offer.Bundle.Spec)...)
	s.found = append(found, s.found...)
	return nil
}

// manifest says what a host must have to take the pod.
func (s *Source) manifest(o *Offer) (*spec.Manifest, error) {
	machine, err := spec.ReadMachine(s.binary.Version)
	if err != nil {
		return nil, err
	}
	m := spec.NewManifest(o.Bundle, machine)
	m.Name = o.Pod
	for _, b := range o.Mounts.Binds { // what came along with a bind mount, and devices
		if b.Source != "" && !slices.ContainsFunc(m.Mounts, func(p spec.HostPath) bool { return p.Source == b.Source }) {
			m.Mounts = append(m.Mounts, spec.HostPath{Source: b.Source, Target: b.Target})
		}
	}
	if m.Memory, err = s.cgroup.MemoryUsage(); err != nil {
		return nil, err
	}
	for _, l := range o.Record.Layers {
		m.Layers = append(m.Layers, spec.Layer{Digest: l.Digest, Size: l.Size})
	}
	index, err := stream.Scan(own(o.Bundle))
	if err != nil {
		return nil, err
	}
	m.Disk = index.Bytes()
	return m, nil
}

// examine compares an offer with this host and says what speaks against it and
// which layers are missing.
func (t *Target) examine(ctx context.Context, o *Offer) ([]spec.Blocker, []string, error) {
	root := t.Runtime.Root()
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, nil, err
	}
	o.describeNetwork()
	h, err := spec.ReadHost(o.Manifest, root, "", t.Binary.Version)
	if err != nil {
		return nil, nil, err
	}
	if h.Bridges, err = network.Bridges(); err != nil {
		return nil, nil, err
	}
	if err := t.addOccupied(h); err != nil {
		return nil, nil, err
	}
	var missing []string
	for _, l := range o.Record.Layers {
		if !digestPattern().MatchString(l.Digest) {
			return nil, nil, fmt.Errorf("offer of pod %s: layer %q has no digest", o.Pod, l.Digest)
		}
		if findLayer(root, l.Digest) == "" {
			missing = append(missing, l.Digest)
		} else {
			h.Layers = append(h.Layers, l.Digest)
		}
	}
	return append(o.Manifest.Blockers(h), t.lacking(ctx, o)...), missing, ctx.Err()
}

// addOccupied notes the names and addresses of the pods that are here.
func (t *Target) addOccupied(h *spec.Host) error {
	entries, err := os.ReadDir(t.Runtime.Root())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") || e.Name() == "layers" {
			continue
		}
		h.Names = append(h.Names, e.Name())
		p, err := pod.Load(t.Runtime, e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // it is on its way in
		}
		if err != nil {
			t.Log.Warn("look at pod", "pod", e.Name(), "error", err.Error())
			continue
		}
		if p.Record.Network != nil {
			for _, a := range p.Record.Network.Addresses {
				h.Addresses = append(h.Addresses, a.String())
			}
		}
	}
	return nil
}
