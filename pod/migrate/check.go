package migrate

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// Bounds of an offer.
const (
	maxTrees  = 256  // tmpfs mounts: each is a descriptor of the supervisor
	maxMounts = 4096 // all mounts
	maxLayers = 500  // overlayfs takes no more
)

// patterns of what an offer may hold, compiled when the first one comes.
var patterns = sync.OnceValue(func() (p struct{ id, key, option, source, stream, controller *regexp.Regexp }) {
	p.id = regexp.MustCompile(`^[0-9a-f]{32}$`)
	p.key = regexp.MustCompile(`^zap-[0-9]{1,5}$`)
	p.option = regexp.MustCompile(`^(size|nr_inodes|mode|uid|gid)=[0-9]{1,20}[kKmMgG%]?$`)
	p.source = regexp.MustCompile(`^source=[^\x00]{0,255}$`)
	p.stream = regexp.MustCompile(`^(pipe:\[[0-9]+\]|file\[[0-9a-f]+:[0-9a-f]+\])?$`)
	p.controller = regexp.MustCompile(`^[a-z0-9_=.-]{1,64}$`)
	return p
})

// checkOffer refuses what no honest source sends. Everything in an offer that
// names something of this host is either looked at here, or compared with the
// host, or replaced: see localBundle and localRecord.
func checkOffer(o *Offer) error {
	if err := pod.CheckID(o.Pod); err != nil {
		return err
	}
	err := func() error {
		switch {
		case !patterns().id.MatchString(o.Migration):
			return errors.New("its move has no name")
		case !patterns().id.MatchString(o.Record.UID):
			return errors.New("the pod has no uid")
		case o.Manifest == nil || o.Bundle == nil || o.Bundle.Spec == nil || o.Bundle.Spec.Linux == nil || o.Bundle.Spec.Root == nil:
			return errors.New("it has no manifest or bundle")
		case o.Manifest.Name != o.Pod:
			return fmt.Errorf("its manifest is that of %q", o.Manifest.Name)
		}
		if err := checkLayers(o); err != nil {
			return err
		}
		if err := checkMounts(&o.Mounts, o.Manifest); err != nil {
			return err
		}
		for _, name := range o.Record.Streams {
			if !patterns().stream.MatchString(name) {
				return fmt.Errorf("%q is no standard stream", name)
			}
		}
		if o.Network != nil {
			if err := o.Network.Validate(); err != nil {
				return err
			}
		}
		return spec.Validate(o.Bundle.Spec)
	}()
	if err != nil {
		return fmt.Errorf("offer of pod %s: %w", o.Pod, err)
	}
	return nil
}

// checkLayers wants an overlay to have lower layers, with digests, and nothing
// else to have any.
func checkLayers(o *Offer) error {
	layers := o.Record.Layers
	if (o.Bundle.Overlay != nil) != (len(layers) > 0) || len(layers) > maxLayers {
		return fmt.Errorf("its root file system has %d layers", len(layers))
	}
	for _, l := range layers {
		if !digestPattern().MatchString(l.Digest) {
			return fmt.Errorf("layer %q has no digest", l.Digest)
		}
	}
	return nil
}

// checkMounts wants the keys of mounts to be names that the source's planner
// makes, each once, and host paths to be among those that are compared.
func checkMounts(p *runtime.MountPlan, m *spec.Manifest) error {
	if n := len(p.Trees) + len(p.Binds) + len(p.Queues); n > maxMounts || len(p.Trees) > maxTrees {
		return fmt.Errorf("%d mounts, %d of them tmpfs", n, len(p.Trees))
	}
	seen := map[string]bool{}
	check := func(key, target string) error {
		if !patterns().key.MatchString(key) || seen[key] {
			return fmt.Errorf("mount on %q: key %q", target, key)
		}
		seen[key] = true
		if !plainPath(target) {
			return fmt.Errorf("mount on %q", target)
		}
		return nil
	}
	for _, t := range p.Trees {
		if err := check(t.Key, t.Target); err != nil {
			return err
		}
		for _, option := range t.Options {
			if !patterns().option.MatchString(option) && !patterns().source.MatchString(option) {
				return fmt.Errorf("tmpfs on %s: option %q", t.Target, option)
			}
		}
	}
	for _, b := range p.Binds {
		if err := check(b.Key, b.Target); err != nil {
			return err
		}
		if err := checkBind(&b, m); err != nil {
			return fmt.Errorf("mount on %s: %w", b.Target, err)
		}
	}
	for _, q := range p.Queues {
		if err := check(q.Key, q.Target); err != nil {
			return err
		}
	}
	return nil
}

// checkBind wants what is mounted to be what the manifest names, below it, or a
// node of /dev.
func checkBind(b *runtime.BindMount, m *spec.Manifest) error {
	if b.Controller != "" {
		if b.Source != "" || !patterns().controller.MatchString(b.Controller) || b.Below != "" && !plainPath(b.Below) {
			return fmt.Errorf("cgroup %q of %s", b.Below, b.Controller)
		}
		return nil
	}
	if !plainPath(b.Source) || b.Below != "" {
		return fmt.Errorf("source %q", b.Source)
	}
	if strings.HasPrefix(b.Source, "/dev/") {
		return nil
	}
	for _, have := range m.Mounts {
		if b.Source == have.Source || strings.HasPrefix(b.Source, strings.TrimSuffix(have.Source, "/")+"/") {
			return nil
		}
	}
	return fmt.Errorf("source %s is not in the manifest", b.Source)
}

// plainPath says whether p is absolute and has nothing in it to be resolved.
func plainPath(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && len(p) < 4096 && !strings.ContainsRune(p, 0)
}

// describeNetwork puts into the manifest what the pod's network needs of a
// host. Both sides do it: the target compares what it will set up.
func (o *Offer) describeNetwork() {
	m := o.Manifest
	m.Bridges, m.Addresses = nil, nil
	if o.Network == nil {
		return
	}
	if o.Network.Bridge != "" {
		m.Bridges = []string{o.Network.Bridge}
	}
	for _, a := range o.Network.Addresses {
		m.Addresses = append(m.Addresses, a.String())
	}
}

// localRecord is the pod's record without what it was on the source, and with
// the layers of this host.
func localRecord(o *Offer, from string, b *spec.Bundle) pod.Record {
	r := o.Record
	r.Supervisor, r.Exit, r.Network, r.From = pod.Process{}, nil, nil, from
	r.Moves = max(r.Moves, 0)
	r.Layers = append([]pod.Layer(nil), r.Layers...)
	for i := range r.Layers {
		r.Layers[i].Path, r.Layers[i].Fingerprint = b.Overlay.Lower[i], ""
	}
	return r
}
