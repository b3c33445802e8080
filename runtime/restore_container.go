package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/spec"
)

// Restore makes the container id from images, which a checkpoint of it or of another one with the same mounts has made. Everything that
// lies on the host is taken from the bundle: bind mounts, namespaces with a path, the cgroup and its limits, standard streams from o. The
// calling process is the parent of the first process and has to wait for it, as after Run. After an error nothing is left, except the
// container's directory if it was there before.
func (r *Runtime) Restore(ctx context.Context, id string, b *spec.Bundle, o CreateOptions, images ImageOptions) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	c := &restoration{
		creation: creation{runtime: r, ctx: ctx, id: id, bundle: b, options: o, dir: r.Dir(id)}, images: &images,
	}
	unlock, err := c.makeDir()
	if err != nil {
		return nil, fmt.Errorf("restore container %s: %w", id, err)
	}
	defer unlock()
	defer c.close()
	if err := c.run(); err != nil {
		return nil, errors.Join(fmt.Errorf("restore container %s: %w", id, err), c.undo())
	}
	container := &Container{runtime: r, dir: c.dir, state: c.state}
	if err := errors.Join(writePidFile(o.PidFile, c.state.Pid), sendPidfd(o.PidfdSocket, c.state.Pid)); err != nil {
		return nil, errors.Join(fmt.Errorf("restore container %s: %w", id, err), container.delete(context.WithoutCancel(ctx), true))
	}
	return container, nil
}

// restoration is the work of one Restore.
type restoration struct {
	creation
	images    *ImageOptions
	dirs      imageDirs
	mounts    []criu.Mount // for the session
	env       criu.Env
	session   *criu.Session
	inherited []string // keys of the files of env
	network   *os.File // the namespace that the container is given; nil when it gets one of its own
	held      []network.Connection
	pid       int
	returns   []func() // before the mounts are closed
}

func (r *restoration) close() {
	for _, f := range r.returns {
		f()
	}
	for _, m := range r.mounts {
		m.Tree.Close()
	}
	if r.dirs.images != nil {
		r.dirs.close()
	}
	for _, f := range r.closers {
		f()
	}
}

func (r *restoration) run() (err error) {
	if _, err := os.Stat(filepath.Join(r.images.Images, "inventory.img")); err != nil {
		return fmt.Errorf("find images: %w", err)
	}
	if r.dirs, err = r.images.open(); err != nil {
		return err
	}
	if err := r.makeCgroup(); err != nil {
		return err
	}
	if r.cgroup == nil {
		return errors.New("no cgroup can be made for it: CRIU and zap need root")
	}
	if r.mounts, err = RestoreMounts(r.bundle, &MountPlan{}, nil); err != nil {
		return err
	}
	request, err := r.request()
	if err != nil {
		return err
	}
	r.env.JoinFiles, r.env.Cache, r.env.Mounts, r.env.Log = r.cgroup.JoinFiles(), r.images.Cache, r.mounts, r.runtime.log
	r.env.PrivateTmp = !r.images.usesTmp(r.bundle, request)
	managed := request.GetManageCgroupsMode() != rpc.CriuCgMode_IGNORE
	if managed {
		r.env.PrivateTmp, r.env.Work = false, r.dirs.work.Name()
	}
	for _, ns := range r.namespaces() {
		r.env.CgroupNS = r.env.CgroupNS || ns.Type == specs.CgroupNamespace
	}
	if err := r.openToUsers(); err != nil {
		return err
	}
	if err := r.holdConnections(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.release()) }()
	if r.session, err = criu.Start(r.ctx, r.images.CRIU, r.env); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.session.Close()) }()
	if managed {
		request.WorkDirFd = proto.Int32(int32(r.session.Work().Fd()))
	}
	for i, key := range r.inherited {
		criu.InheritFD(request, r.session.FD(i), key)
	}
	_, err = r.session.Restore(r.ctx, request, criu.Callbacks{
		SetupNamespaces: r.setUp,
		OrphanPtsMaster: r.giveTerminal,
		PostRestore:     func(int) error { return r.release() },
		PreResume:       r.record,
	})
	return err
}

// request makes CRIU's options, except those about inherited files.
func (r *restoration) request() (*rpc.CriuOpts, error) {
	q := criu.RestoreOptions(r.dirs.images, r.dirs.work, filepath.Join(restoreDir, "root"))
	if err := r.images.apply(q, r.bundle.Spec.Annotations); err != nil {
		return nil, err
	}
	q.EvasiveDevices = proto.Bool(true)
	q.TcpClose, q.TcpEstablished = proto.Bool(r.images.TCPClose), proto.Bool(!r.images.TCPClose)
	if err := r.mountOptions(q); err != nil {
		return nil, err
	}
	if err := r.namespaceOptions(q); err != nil {
		return nil, err
	}
	if q.GetManageCgroupsMode() != rpc.CriuCgMode_IGNORE {
		for controller := range r.cgroup.Paths() {
			q.CgRoot = append(q.CgRoot, &rpc.CgroupRoot{Ctrl: proto.String(controller), Path: proto.String(r.cgroup.Path())})
		}
	}
	return q, r.inheritStreams()
}

// mountOptions names what takes the place of the mounts that are not in the images, and makes the places for all.
func (r *restoration) mountOptions(q *rpc.CriuOpts) error {
	mounts, err := criu.ReadMounts(r.images.Images)
	if err != nil {
		return err
	}
	m := newImageMounts(r.bundle, r.mounts[0].Tree, r.cgroup)
	sources := map[string]string{}
	for _, mount := range mounts {
		if mount.Key == "" || sources[mount.Key] != "" || strings.HasPrefix(mount.Key, "/proc/self/") {
			continue
		}
		source, err := m.source(mount.Key)
		if err != nil {
			return err
		}
		sources[mount.Key] = source
		criu.RestoreExternalMount(q, mount.Key, source)
	}
	if err := m.prepare(mounts, sources); err != nil {
		return err
	}
	return r.lendTmp()
}

// lendTmp makes /tmp for the time of the restore, in a read-only root file system without one: CRIU parks the old root there, and would
// make a directory of its own, which it can't in this case.
func (r *restoration) lendTmp() error {
	if root := r.bundle.Spec.Root; root == nil || !root.Readonly {
		return nil
	}
	top := int(r.mounts[0].Tree.Fd())
	switch err := unix.Mkdirat(top, "tmp", 0o755); {
	case err == unix.EEXIST:
		return nil
	case err != nil:
		return &os.PathError{Op: "mkdir", Path: filepath.Join(r.bundle.RootPath(), "tmp"), Err: err}
	}
	r.returns = append(r.returns, func() { _ = unix.Unlinkat(top, "tmp", unix.AT_REMOVEDIR) })
	return nil
}

// namespaceOptions puts the container into the namespaces that the bundle names.
func (r *restoration) namespaceOptions(q *rpc.CriuOpts) error {
	own := false // the network namespace
	for i, ns := range r.namespaces() {
		own = own || ns.Type == specs.NetworkNamespace && ns.Path == ""
		if ns.Path == "" {
			continue
		}
		place := fmt.Sprintf("(config.json: linux.namespaces[%d])", i)
		if kind, key := externalNamespace(ns.Type); kind != "" {
			f, err := os.Open(ns.Path)
			if err != nil {
				return fmt.Errorf("open %s namespace: %w %s", ns.Type, err, place)
			}
			r.closers = append(r.closers, func() { f.Close() })
			r.inherit(f, key)
			if ns.Type == specs.NetworkNamespace {
				r.network = f
			}
			continue
		}
		word := map[specs.LinuxNamespaceType]string{
			specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.UserNamespace: "user", specs.MountNamespace: "mnt",
		}[ns.Type]
		if word == "" {
			return fmt.Errorf("restore into %s namespace %s: CRIU can't join one %s", ns.Type, ns.Path, place)
		}
		q.JoinNs = append(q.JoinNs, &rpc.JoinNamespace{Ns: proto.String(word), NsFile: proto.String(ns.Path)})
	}
	if r.network != nil || own {
		return nil
	}
	host, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	r.closers = append(r.closers, func() { host.Close() })
	r.network = host
	return nil
}

// openToUsers lets the root of a new user namespace look up names in the image directory as long as the restore takes: in it CRIU opens
// images as that user, by the descriptor of the directory. Nobody else gets in.
func (r *restoration) openToUsers() error {
	gid := -1
	if l := r.bundle.Spec.Linux; l != nil {
		for _, m := range l.GIDMappings {
			if m.ContainerID == 0 && m.Size > 0 {
				gid = int(m.HostID)
			}
		}
	}
	if gid < 0 {
		return nil
	}
	fd := int(r.dirs.images.Fd())
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		r.returns = append(r.returns, func() {
			_ = unix.Fchown(fd, -1, int(st.Gid))
			_ = unix.Fchmod(fd, st.Mode&0o7777)
		})
		err = unix.Fchown(fd, -1, gid)
	}
	if err == nil {
		err = unix.Fchmod(fd, st.Mode&0o7777&^0o070|0o010)
	}
	if err != nil {
		return fmt.Errorf("open image directory to the user namespace: %w", err)
	}
	return nil
}

// inherit hands a file to CRIU, which puts it in the place of what key names.
func (r *restoration) inherit(f *os.File, key string) {
	r.env.Files = append(r.env.Files, f)
	r.inherited = append(r.inherited, key)
}

// inheritStreams puts this container's standard streams in the place of those that led outside at the checkpoint.
func (r *restoration) inheritStreams() error {
	e, err := readExtras(r.images.Images)
	if err != nil {
		return err
	}
	for _, name := range e.Null {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		r.closers = append(r.closers, func() { null.Close() })
		r.inherit(null, name)
	}
	for i, f := range []*os.File{r.options.Stdin, r.options.Stdout, r.options.Stderr} {
		if f == nil {
			f = []*os.File{os.Stdin, os.Stdout, os.Stderr}[i]
		}
		if e.Streams[i] != "" {
			r.inherit(f, e.Streams[i])
		}
	}
	return nil
}

// readExtras returns what the processes in the images had open outside of the container: as zap wrote it down, or else as runc did, which
// knows pipes alone.
func readExtras(dir string) (e extras, err error) {
	if err := readJSON(filepath.Join(dir, extrasName), &e); !errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	var links []string
	if err := readJSON(filepath.Join(dir, descriptorsName), &links); err != nil {
		return e, err
	}
	for i, link := range links {
		if i < len(e.Streams) && strings.HasPrefix(link, "pipe:") {
			e.Streams[i] = link
		}
	}
	return e, nil
}

// readJSON reads a small file.
func readJSON(path string, v any) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > 1<<20 {
		return fmt.Errorf("%s: larger than %d bytes", path, 1<<20)
	}
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// holdConnections keeps the namespace from answering what comes for connections before their sockets are there again.
func (r *restoration) holdConnections() error {
	if r.network == nil || r.images.TCPClose {
		return nil
	}
	list, err := criu.ReadConnections(r.images.Images)
	if err != nil {
		return err
	}
	for _, c := range list {
		r.held = append(r.held, network.Connection(c))
	}
	return network.HoldConnections(r.network, r.held, nil)
}

// release lets them through. All sockets are there, in repair mode still: they take what comes, and speak when the container goes on.
func (r *restoration) release() error {
	if r.network == nil {
		return nil
	}
	held := r.held
	r.held = nil
	return network.ReleaseConnections(r.network, held, nil)
}

// setUp is called when the first process is there with its namespaces and nothing else: it gives the container what belongs to its host.
func (r *restoration) setUp(pid int) error {
	r.pid = pid
	if r.network == nil {
		if err := network.SetLoopbackUp(pid); err != nil {
			return err
		}
	}
	h := r.bundle.Spec.Hooks
	//lint:ignore SA1019 prestart is deprecated and in use
	if h == nil || len(h.Prestart)+len(h.CreateRuntime) == 0 {
		return nil
	}
	if err := r.describe(specs.StateCreating, pid); err != nil {
		return err
	}
	return r.runtimeHooks()
}

// giveTerminal hands over the master of the container's terminal.
func (r *restoration) giveTerminal(master *os.File) error {
	if take := r.options.Console; take != nil {
		return take(master)
	}
	defer master.Close()
	if r.options.ConsoleSocket == "" {
		return fmt.Errorf("give console: %w", errNoConsole)
	}
	// It is as it was handed out first, and as the program has set it since.
	if err := sendFile(r.options.ConsoleSocket, master); err != nil {
		return fmt.Errorf("send console: %w", err)
	}
	return nil
}

// record writes the container's state, when everything that can go wrong is over and nothing runs yet.
func (r *restoration) record() error {
	if err := r.describe(specs.StateRunning, r.pid); err != nil {
		return err
	}
	return writeState(r.dir, r.state)
}

// undo removes what a failed restore made. CRIU has killed what it had restored.
func (r *restoration) undo() error {
	if r.pid > 0 {
		_, _ = unix.Wait4(r.pid, nil, unix.WNOHANG, nil)
	}
	return r.creation.undo()
}
