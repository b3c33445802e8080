package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/runtime/vdso"
)

// CheckpointOptions say how a container is saved to images.
type CheckpointOptions struct {
	ImageOptions
	// LeaveRunning lets the container go on. Without it the container is gone afterwards.
	LeaveRunning bool
	// PreDump saves only memory, for a checkpoint that continues from there; the container goes on.
	PreDump bool
}

// ErrFeature says that CRIU lacks something on this kernel; the text is the one that callers of runc know.
var ErrFeature = errors.New("criu is missing features")

// Checkpoint saves a running or paused container to images, from which Restore makes it again, here or elsewhere. What it sends over the
// network while it is saved is held back, and its TCP connections are held for an hour when it does not go on, so that their peers notice
// nothing but a pause. After an error the container goes on as it was.
func (c *Container) Checkpoint(ctx context.Context, o CheckpointOptions) error {
	unlock, err := lock(ctx, c.dir)
	if err != nil {
		return fmt.Errorf("checkpoint container %s: %w", c.ID(), err)
	}
	defer unlock()
	if err := c.checkpoint(ctx, &o); err != nil {
		return fmt.Errorf("checkpoint container %s: %w", c.ID(), err)
	}
	return nil
}

func (c *Container) checkpoint(ctx context.Context, o *CheckpointOptions) (err error) {
	if err := c.reload(); err != nil {
		return err
	}
	status := c.Status()
	if status != specs.StateRunning && status != StatePaused {
		return fmt.Errorf("container cannot be checkpointed in %s state", status)
	}
	d := &dump{container: c, options: o, paused: status == StatePaused}
	if d.cgroup, err = c.Cgroup(); err != nil {
		return err
	}
	if d.dirs, err = o.open(); err != nil {
		return err
	}
	defer d.dirs.close()
	if d.namespace, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", c.state.Pid)); err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer d.namespace.Close()
	if err := d.run(ctx); err != nil {
		return err
	}
	if o.PreDump || o.LeaveRunning {
		return nil
	}
	return c.delete(context.WithoutCancel(ctx), true)
}

// dump is the work of one Checkpoint.
type dump struct {
	container *Container
	options   *CheckpointOptions
	cgroup    *cgroup.Cgroup
	dirs      imageDirs
	namespace *os.File // of the network
	session   *criu.Session
	extras    extras

	paused bool       // the container was, and stays so
	frozen bool       // by zap
	held   tcpSockets // connections and ports that are held back
}

func (d *dump) run(ctx context.Context) (err error) {
	c, o := d.container, d.options
	request, err := d.request()
	if err != nil {
		return err
	}
	d.session, err = criu.Start(ctx, o.CRIU, criu.Env{Cache: o.Cache, Dumps: true, Tree: c.state.Pid, Log: c.runtime.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.session.Close()) }()
	if err := d.checkFeatures(ctx); err != nil {
		return err
	}
	if o.PreDump {
		return d.session.PreDump(ctx, request, criu.Callbacks{})
	}
	if err := d.describe(); err != nil {
		return err
	}
	_, err = d.session.Dump(ctx, request, criu.Callbacks{
		PreDump: func() error { return d.stop(ctx) },
		// Here the images are whole, and the container goes on when this fails.
		PostDump:    func() error { return criu.AccountReserved(o.Images) },
		StatusReady: d.ready,
	})
	return d.goOn(ctx, err)
}

// request makes CRIU's options.
func (d *dump) request() (*rpc.CriuOpts, error) {
	s, o := d.container.state, d.options
	r := criu.DumpOptions(s.Pid, d.dirs.images, d.dirs.work)
	if err := o.apply(r, s.Annotations); err != nil {
		return nil, err
	}
	if err := o.dumpOptions(r); err != nil {
		return nil, err
	}
	if _, v2 := d.cgroup.Paths()[""]; o.CgroupsMode == "" && !(v2 && len(d.cgroup.Paths()) == 1) {
		r.ManageCgroupsMode = rpc.CriuCgMode_SOFT.Enum()
	}
	r.LeaveRunning = proto.Bool(o.LeaveRunning)
	if o.PreDump {
		r.TrackMem = proto.Bool(true)
		return r, d.nameNamespaces(r)
	}
	mounts, err := externalMounts(s)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		criu.DumpExternalMount(r, m.target, m.key)
	}
	if d.extras, err = d.container.extras(); err != nil {
		return nil, err
	}
	for _, name := range append(d.extras.Streams[:], d.extras.Null...) {
		if isExternalFile(name) {
			criu.DumpExternalFile(r, name)
		}
	}
	if freezer := d.cgroup.FreezerPath(); freezer != "" && !d.hasStopped() {
		criu.SetFreezer(r, freezer)
	}
	return r, d.nameNamespaces(r)
}

// nameNamespaces leaves the namespaces that the container was given to whoever gave them.
func (d *dump) nameNamespaces(r *rpc.CriuOpts) error {
	for _, ns := range d.container.state.Bundle.Spec.Linux.Namespaces {
		kind, key := externalNamespace(ns.Type)
		if kind == "" || ns.Path == "" {
			continue
		}
		var st unix.Stat_t
		path := fmt.Sprintf("/proc/%d/ns/%s", d.container.state.Pid, kind)
		if err := unix.Stat(path, &st); err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		r.External = append(r.External, fmt.Sprintf("%s[%d]:%s", kind, st.Ino, key))
	}
	return nil
}

// externalNamespace returns CRIU's word for a kind of namespace that is not in the images when the container was given it, and the key
// that runc uses. The others are saved, and joined at a restore.
func externalNamespace(t specs.LinuxNamespaceType) (kind, key string) {
	switch t {
	case specs.NetworkNamespace:
		return "net", "extRootNetNS"
	case specs.PIDNamespace:
		return "pid", "extRootPidNS"
	}
	return "", ""
}

// isExternalFile says whether the name of a standard stream is one that CRIU leaves out.
func isExternalFile(name string) bool { return len(name) > 5 && name[:5] == "file[" }

// hasStopped says whether a process of the container is stopped, as a job after ^Z. In a v1 freezer such a process can't be traced, and
// CRIU would wait for ever: it has to stop the container without one then.
func (d *dump) hasStopped() bool {
	pids, err := d.cgroup.Procs()
	if err != nil {
		return false
	}
	for _, pid := range pids {
		if _, state, err := startTime(pid); err == nil && state == 'T' {
			_, err := os.Stat(filepath.Join(d.cgroup.FreezerPath(), "freezer.state"))
			return err == nil
		}
	}
	return false
}

func (d *dump) checkFeatures(ctx context.Context) error {
	o := d.options
	if !o.PreDump && !o.LazyPages && o.Parent == "" {
		return nil
	}
	f, err := d.session.Features(ctx)
	switch {
	case err != nil:
		return err
	case (o.PreDump || o.Parent != "") && !f.MemTrack:
		return fmt.Errorf("%w: [MemTrack] (the kernel is built without CONFIG_MEM_SOFT_DIRTY: a pre-dump needs it)", ErrFeature)
	case o.LazyPages && !f.LazyPages:
		return fmt.Errorf("%w: [LazyPages] (lazy pages need userfaultfd)", ErrFeature)
	}
	return nil
}

// extras are what zap notes beside the images.
type extras struct {
	// Streams is how the images call the standard streams that lead outside (Streams.Names), Null how they call the host's null device.
	Streams [3]string `json:"streams"`
	Null    []string  `json:"null,omitempty"`
}

// extras finds what the processes have open outside of the container.
func (c *Container) extras() (e extras, err error) {
	streams, err := c.Streams()
	if err != nil {
		return e, err
	}
	for i, name := range streams.Names {
		if !streams.Null[i] { // it stays the null device, for whoever has it open
			e.Streams[i] = name
		}
	}
	e.Null, err = c.NullFiles()
	return e, err
}

// describe writes what a restore wants to know beside the images.
func (d *dump) describe() error {
	for name, v := range map[string]any{descriptorsName: d.container.state.Stdio, extrasName: &d.extras} {
		data, err := json.Marshal(v)
		if err == nil {
			err = replaceFile(d.options.Images, name, data, false)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// vdsoPatience is how long a container is stopped again and again until none of its threads is in the vDSO.
const vdsoPatience = time.Second

// stop freezes the container and holds its connections: between CRIU's preparations and its look at the processes.
func (d *dump) stop(ctx context.Context) error {
	if !d.paused && !d.hasStopped() {
		// Should a thread still be in the vDSO, only a restore on another kernel would break it.
		if _, err := vdso.Freeze(ctx, d.cgroup, vdsoPatience); err != nil {
			return err
		}
		d.frozen = true
	}
	pids, err := d.cgroup.Procs()
	if err != nil {
		return err
	}
	if d.held, err = tcpSocketsOf(d.container.state.Pid, pids); err != nil {
		return err
	}
	return network.HoldConnections(d.namespace, d.held.connections, d.held.listening)
}

// ready tells who is going to ask for memory that CRIU listens.
func (d *dump) ready() error {
	f := d.options.StatusFile
	if f == nil {
		return nil
	}
	_, err := f.Write([]byte{0})
	return errors.Join(err, f.Close())
}

// goOn puts the container back to what it was, when it goes on, and releases what its end does not need.
func (d *dump) goOn(ctx context.Context, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if failed == nil && !d.options.LeaveRunning {
		// Its connections stay held: the sockets are gone, and their peers would be answered with a reset.
		if err := network.ReleaseConnections(d.namespace, nil, d.held.listening); err != nil {
			d.container.runtime.log.Warn("release ports", "container", d.container.ID(), "error", err.Error())
		}
		return nil
	}
	errs := []error{failed}
	var e *criu.Error
	if errors.As(failed, &e) && e.Killed {
		if pids, err := d.cgroup.Procs(); err == nil {
			errs = append(errs, network.Repair(pids, false))
		}
	}
	if d.frozen {
		errs = append(errs, d.cgroup.Thaw(ctx))
	}
	return errors.Join(append(errs, network.ReleaseConnections(d.namespace, d.held.connections, d.held.listening))...)
}
