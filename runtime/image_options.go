package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/spec"
)

// ImageOptions say where the images of a checkpoint are and how CRIU writes or reads them. They are runc's: an image that one of the two
// has made can be restored by the other, with the same CRIU.
type ImageOptions struct {
	// CRIU is the program to use, Cache the directory that keeps what it found out about the kernel (criu.Env).
	CRIU  *criu.Binary
	Cache string
	// Images is the directory of the images, Work that of logs and statistics; empty is Images. Both are made when they are missing.
	Images, Work string
	// Parent is the directory of a pre-dump that this checkpoint continues, relative to Images.
	Parent string
	// TCPEstablished lets a dump take established connections, TCPSkipInFlight leave out those that are not accepted yet. A restore takes
	// what the images have; TCPClose makes it close connections.
	TCPEstablished, TCPSkipInFlight, TCPClose bool
	// ExtUnixSk lets unix sockets have peers outside, ShellJob the session's leader be outside. AutoDedup frees memory in the parent's images.
	ExtUnixSk, ShellJob, AutoDedup bool
	// CgroupsMode is what CRIU does about cgroups: soft, full, strict or ignore. With "" a restore ignores them, as zap makes the cgroup, and
	// a dump writes down what runc's restore looks for, where that does not change the host's v2 mount (CRIU's issue 3029).
	CgroupsMode string
	// LazyPages leaves the memory to a page server that asks for it over PageServer, "address:port". Without LazyPages, memory is sent to
	// one that listens there. StatusFile gets a zero byte when the server may ask.
	LazyPages  bool
	PageServer string
	StatusFile *os.File
	// LSMProfile and LSMMountContext replace the labels of the images at a restore: "selinux:LABEL", "apparmor:PROFILE".
	LSMProfile, LSMMountContext string
}

// Names of files beside the images.
const (
	descriptorsName = "descriptors.json" // runc's: what the standard streams were
	// extrasName is what zap keeps beyond what runc does.
	extrasName = "zap.json"
)

// runcConfig is the file of CRIU's options that runc's users know: what stands there wins over what a request says.
const runcConfig = "/etc/criu/runc.conf"

// configAnnotation names another such file, or none when it is empty.
const configAnnotation = "org.criu.config"

// imageDirs are the opened directories of a checkpoint.
type imageDirs struct{ images, work *os.File }

func (o *ImageOptions) open() (d imageDirs, err error) {
	if d.images, err = openDir(o.Images); err != nil {
		return d, fmt.Errorf("open image directory: %w", err)
	}
	work := o.Work
	if work == "" {
		work = o.Images
	}
	if d.work, err = openDir(work); err != nil {
		d.images.Close()
		return d, fmt.Errorf("open work directory: %w", err)
	}
	return d, nil
}

func (d *imageDirs) close() {
	d.images.Close()
	d.work.Close()
}

// openDir makes a directory, if it is missing, and opens it.
func openDir(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// apply adds the options to a request.
func (o *ImageOptions) apply(r *rpc.CriuOpts, annotations map[string]string) error {
	const debug = 4 // what runc's users look for in dump.log
	r.LogLevel = proto.Int32(debug)
	r.ExtUnixSk, r.ShellJob, r.AutoDedup = proto.Bool(o.ExtUnixSk), proto.Bool(o.ShellJob), proto.Bool(o.AutoDedup)
	r.LazyPages = proto.Bool(o.LazyPages)
	// A network namespace of the container's own is made empty: who made the container connects it again.
	r.EmptyNs = proto.Uint32(unix.CLONE_NEWNET)
	mode, err := cgroupsMode(o.CgroupsMode)
	if err != nil {
		return err
	}
	r.ManageCgroupsMode = mode.Enum()
	config, named := annotations[configAnnotation]
	if _, err := os.Stat(runcConfig); !named && !errors.Is(err, fs.ErrNotExist) {
		config = runcConfig
	}
	if config != "" {
		r.ConfigFile = proto.String(config)
	}
	if o.LSMProfile != "" {
		r.LsmProfile = proto.String(o.LSMProfile)
	}
	if o.LSMMountContext != "" {
		r.LsmMountContext = proto.String(o.LSMMountContext)
	}
	return nil
}

func cgroupsMode(mode string) (rpc.CriuCgMode, error) {
	switch mode {
	case "", "ignore":
		return rpc.CriuCgMode_IGNORE, nil
	case "soft":
		return rpc.CriuCgMode_SOFT, nil
	case "full":
		return rpc.CriuCgMode_FULL, nil
	case "strict":
		return rpc.CriuCgMode_STRICT, nil
	}
	return 0, fmt.Errorf("cgroups mode %q: not soft, full, strict or ignore", mode)
}

// dumpOptions adds what only a dump has.
func (o *ImageOptions) dumpOptions(r *rpc.CriuOpts) error {
	r.TcpEstablished, r.TcpSkipInFlight = proto.Bool(o.TCPEstablished), proto.Bool(o.TCPSkipInFlight)
	if o.Parent != "" {
		if filepath.IsAbs(o.Parent) {
			return errors.New("--parent-path must be relative")
		}
		parent := filepath.Join(o.Images, o.Parent)
		info, err := os.Stat(parent)
		if err == nil && !info.IsDir() {
			err = &os.PathError{Op: "open", Path: parent, Err: unix.ENOTDIR}
		}
		if err != nil {
			return fmt.Errorf("invalid --parent-path: %w", err)
		}
		r.ParentImg, r.TrackMem = proto.String(o.Parent), proto.Bool(true)
	}
	if o.PageServer != "" {
		address, port, err := net.SplitHostPort(o.PageServer)
		if err != nil || address == "" || port == "" {
			return errors.New("use --page-server ADDRESS:PORT to specify page server")
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return fmt.Errorf("page server %s: invalid port number", o.PageServer)
		}
		r.Ps = &rpc.CriuPageServerInfo{Address: proto.String(address), Port: proto.Int32(int32(n))}
	}
	return nil
}

// usesTmp says whether CRIU has to see the host's /tmp.
func (o *ImageOptions) usesTmp(b *spec.Bundle, r *rpc.CriuOpts) bool {
	below := func(path string) bool { return path == "/tmp" || len(path) > 5 && path[:5] == "/tmp/" }
	for _, source := range bindSources(b) {
		if below(source) {
			return true
		}
	}
	for _, j := range r.JoinNs {
		if below(j.GetNsFile()) {
			return true
		}
	}
	return below(r.GetConfigFile())
}
