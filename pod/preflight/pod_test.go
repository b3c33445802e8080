package preflight

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/zap-migrate/zap/criu"
	zap "github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/cgroup"
)

const (
	kindVariable  = "ZAP_PREFLIGHT_KIND"  // makes the test binary the program of a pod
	stageVariable = "ZAP_PREFLIGHT_STAGE" // "mounts", then "program"
	longest       = time.Minute           // that a pod of a test may live
)

func init() {
	if os.Getenv(kindVariable) != "" {
		runtime.LockOSThread() // the main goroutine stays on the first thread
	}
}

func TestMain(m *testing.M) {
	if kind := os.Getenv(kindVariable); kind != "" {
		insidePod(kind)
	}
	os.Exit(m.Run())
}

// insidePod is the pod's first process: it makes its mounts, becomes the program by an exec inside its own root, does what
// the kind says, tells that it is ready, and waits to be killed.
func insidePod(kind string) {
	time.AfterFunc(longest, func() { os.Exit(9) })
	var err error
	if os.Getenv(stageVariable) == "mounts" {
		bufio.NewReader(os.Stdin).ReadString('\n') // until it is in its cgroup
		if err = errors.Join(unix.Unshare(unix.CLONE_NEWCGROUP), enterRoot()); err == nil {
			os.Setenv(stageVariable, "program")
			err = errors.Join(upLoopback(), syscall.Exec("/init", os.Args[:1], os.Environ()))
		}
	} else {
		err = program(kind)()
	}
	if err != nil {
		fmt.Printf("%s: %v\n", kind, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for {
		time.Sleep(time.Hour)
	}
}

// enterRoot mounts an overlay on the current directory, as pods have one, and makes it the root.
func enterRoot() error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	root := dir + "/root"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	layers := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, dir, dir)
	mounts := []struct {
		kind, on, data string
	}{
		{"overlay", "", layers}, {"proc", "/proc", ""}, {"devpts", "/dev/pts", "newinstance,ptmxmode=0666"}, {"mqueue", "/dev/mqueue", ""},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.kind, root+m.on, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, root+m.on, err)
		}
	}
	if err := unix.Mount(dir+"/volume", root+"/volume", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount volume: %w", err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("umount old root: %w", err)
	}
	return unix.Chdir("/")
}

func upLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// testPod is a pod made of the test binary.
type testPod struct {
	t      testing.TB
	pid    int
	dir    string
	cg     *cgroup.Cgroup
	stdio  [3]string
	output *bufio.Reader
	input  *os.File
	said   string // the first line
	queues bool   // its message queues are carried by zap
}

var podCount atomic.Int32

// startPod runs the kind in new namespaces and a cgroup of its own, with files as its descriptors from 3 on, and waits until
// it is ready or says something else, which is left in said. prepare, if any, gets the directory that has the pod's volume.
func startPod(t testing.TB, kind string, prepare func(dir string), files ...*os.File) *testPod {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces, mounts and cgroups")
	}
	// What this process inherited from whoever started it is not for the pod.
	check(t, unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC))
	p := &testPod{t: t, dir: t.TempDir()}
	p.makeRoot()
	if prepare != nil {
		prepare(p.dir)
	}
	inR, inW, err := os.Pipe()
	check(t, err)
	outR, outW, err := os.Pipe()
	check(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = p.dir
	cmd.Env = []string{kindVariable + "=" + kind, stageVariable + "=mounts", "GODEBUG=multipathtcp=0"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = inR, outW, outW, files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Setsid:     true,
	}
	p.stdio = [3]string{pipeName(t, inR), pipeName(t, outW), pipeName(t, outW)}
	check(t, cmd.Start())
	p.pid = cmd.Process.Pid
	inR.Close()
	outW.Close()
	p.input, p.output = inW, bufio.NewReader(outR)
	gone := make(chan struct{})
	go func() { cmd.Wait(); close(gone) }()
	t.Cleanup(func() {
		p.end()
		cmd.Process.Kill()
		<-gone
		inW.Close()
		outR.Close()
		if p.cg != nil {
			check(t, p.cg.Delete(context.Background()))
		}
	})
	p.cg, err = cgroup.Create(fmt.Sprintf("/zap/preflight-test-%d-%d", os.Getpid(), podCount.Add(1)), nil)
	check(t, err)
	check(t, p.cg.Add(p.pid))
	p.say("\n")
	p.said = p.hear()
	if reason, ok := strings.CutPrefix(p.said, kind+": "); ok {
		if reason, ok = strings.CutPrefix(reason, "skip: "); ok {
			t.Skip("needs " + reason)
		}
		t.Fatal(p.said)
	}
	return p
}

// end kills all processes of the pod.
func (p *testPod) end() {
	if p.cg == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.cg.Kill(ctx); err != nil {
		p.t.Errorf("end pod: %v", err)
	}
}

func (p *testPod) say(s string) {
	p.t.Helper()
	_, err := p.input.WriteString(s)
	check(p.t, err)
}

func (p *testPod) hear() string {
	line, err := p.output.ReadString('\n')
	if err != nil {
		return fmt.Sprintf("%s (%v)", line, err)
	}
	return strings.TrimSpace(line)
}

// makeRoot makes the pod's lower layer: the program, and places to mount on.
func (p *testPod) makeRoot() {
	t := p.t
	t.Helper()
	for _, d := range []string{"lower/proc", "lower/dev/pts", "lower/dev/mqueue", "lower/tmp", "lower/etc", "lower/volume", "upper", "work", "root", "volume"} {
		check(t, os.MkdirAll(filepath.Join(p.dir, d), 0o755))
	}
	check(t, os.WriteFile(p.dir+"/lower/etc/config", []byte("config\n"), 0o644))
	check(t, os.Symlink("pts/ptmx", p.dir+"/lower/dev/ptmx"))
	for name, dev := range map[string][2]uint32{"null": {1, 3}, "zero": {1, 5}, "urandom": {1, 9}, "tty": {5, 0}, "kmsg": {1, 11}} {
		check(t, unix.Mknod(p.dir+"/lower/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(dev[0], dev[1]))))
	}
	self, err := os.Executable()
	check(t, err)
	binary, err := elf.Open(self)
	check(t, err)
	defer binary.Close()
	for _, part := range binary.Progs {
		if part.Type == elf.PT_INTERP {
			t.Skip("needs a static test binary (CGO_ENABLED=0): it is all that the pod has in its root")
		}
	}
	if os.Link(self, p.dir+"/lower/init") == nil {
		return
	}
	data, err := os.ReadFile(self)
	check(t, err)
	check(t, os.WriteFile(p.dir+"/lower/init", data, 0o755))
}

func pipeName(t testing.TB, f *os.File) string {
	t.Helper()
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	check(t, err)
	return name
}

// dump lets the real CRIU dump the pod with the options that a move uses, except that it leaves it running.
func (p *testPod) dump() error {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	binary, err := criu.Find(ctx, "")
	if err != nil {
		p.t.Skipf("needs criu: %v", err)
	}
	net, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid))
	check(p.t, err)
	defer net.Close()
	s, err := criu.Start(ctx, binary, criu.Env{NetNS: net})
	check(p.t, err)
	defer s.Close()
	check(p.t, os.MkdirAll(p.dir+"/images", 0o755))
	images, err := os.Open(p.dir + "/images")
	check(p.t, err)
	defer images.Close()
	o := criu.DumpOptions(p.pid, images, images)
	o.LeaveRunning = proto.Bool(true)
	criu.SetFreezer(o, p.cg.FreezerPath())
	criu.DumpExternalMount(o, "/volume", "volume")
	for _, q := range p.plan().Queues {
		criu.DumpExternalMount(o, q.Target, q.Key)
	}
	pids, err := p.cg.Procs()
	check(p.t, err)
	check(p.t, criu.WriteInodes(images.Name(), zap.WatchedInodes(p.pid, pids)))
	_, err = s.Dump(ctx, o, criu.Callbacks{})
	return err
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// spawn starts the test binary as another process of the pod, which runs the kind, with files as its descriptors from 3 on,
// and waits until it is ready.
func spawn(kind string, attr *syscall.SysProcAttr, files ...*os.File) (*os.Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/init")
	cmd.Env = []string{kindVariable + "=" + kind, stageVariable + "=program"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles, cmd.SysProcAttr = os.Stdin, w, w, files, attr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w.Close()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil || line != "ready\n" {
		return nil, fmt.Errorf("process %s: %q (%v)", strconv.Quote(kind), line, err)
	}
	return cmd.Process, nil
}

// onOwnThread calls f on a thread that ends with it, so not on the first one, which can't.
func onOwnThread(f func() error) error {
	done := make(chan error)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			elsewhere := make(chan struct{})
			go func() { defer close(elsewhere); run() }()
			<-elsewhere
			runtime.UnlockOSThread()
			return
		}
		var err error
		defer func() { done <- err }()
		err = f()
	}
	go run()
	return <-done
}

// inPidNamespace calls f on a thread whose children are born in the pod's pid namespace.
func (p *testPod) inPidNamespace(f func() error) error {
	return onOwnThread(func() error {
		ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", p.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWPID); err != nil {
			return err
		}
		return f()
	})
}

// traced calls f while a thread of this process traces the thread tid of another. The tracing ends with that thread.
func traced(tid int, f func()) error {
	err := onOwnThread(func() error {
		if err := unix.PtraceSeize(tid); err != nil {
			return err
		}
		f()
		return nil
	})
	if err != nil {
		return err
	}
	for until := time.Now().Add(longest); time.Now().Before(until); time.Sleep(time.Millisecond) {
		status, err := readAt(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/status", tid))
		if err != nil || tracerOf(status) == 0 {
			return err
		}
	}
	return errors.New("it is still traced")
}
