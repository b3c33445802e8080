package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
	"github.com/zap-migrate/zap/e2e/vm/remote"
)

const (
	bootTimeout    = 3 * time.Minute // a boot takes 10 s on an idle machine, 30 s on a busy one
	commandTimeout = 5 * time.Minute // a command that nobody bounded otherwise
	dataSize       = "2G"            // of the data disk, which is sparse
	zapInGuest     = "/usr/local/bin/zap"
	keysInGuest    = "/etc/zap/keys"
)

// Spec says what machine to boot.
type Spec struct {
	Name    string
	Kernel  *Kernel
	CPU     string   // QEMU's name for the processor, Nehalem by default
	Cgroup  string   // v2 (the default), v1 or hybrid
	Criu    string   // the suite that CRIU is from: CriuStable, CriuTesting (the default) or CriuUpcoming
	Without []string // modules that are not loaded
	Memory  int      // MiB, 1024 by default
	Code    int      // MiB for code that was translated, 128 by default
}

// Machine is a virtual machine and a host of the laboratory.
type Machine struct {
	*e2e.Host
	Spec Spec

	lab    *Lab
	t      testing.TB
	number int
	dir    string
	cmd    *exec.Cmd // QEMU; nil when the machine is off
	ended  chan struct{}
	mu     sync.Mutex
	files  []file // what a boot has to put in place
}

// file is something of this machine's that a guest has.
type file struct{ from, to string }

// Boot makes a machine and boots it. It is killed at the end of the test; if that failed, the end of its console is printed.
func (l *Lab) Boot(s Spec) *Machine {
	l.t.Helper()
	m := l.newMachine(s)
	m.Start(s)
	return m
}

// BootAll makes machines and boots them beside each other.
func (l *Lab) BootAll(specs ...Spec) []*Machine {
	l.t.Helper()
	var all []*Machine
	var group sync.WaitGroup
	for _, s := range specs {
		all = append(all, l.newMachine(s))
	}
	errs := make([]error, len(all))
	for i, m := range all {
		group.Go(func() { errs[i] = m.boot(m.Spec) })
	}
	group.Wait()
	for i, err := range errs {
		if err != nil {
			l.t.Fatalf("boot %s: %v\n%s", all[i].Name, err, all[i].console())
		}
	}
	return all
}

// newMachine makes the machine's ports and disk.
func (l *Lab) newMachine(s Spec) *Machine {
	l.t.Helper()
	m := &Machine{lab: l, t: l.t, number: len(l.machines) + 1, dir: l.scratch(s.Name), Spec: s}
	lan, mgmt := m.tap("lan"), m.tap("mgmt")
	l.AddTap(lan, e2e.Lan)
	l.AddTap(mgmt, commandBridge)
	m.Host = l.AddRemote(s.Name, m.number, e2e.Remote{
		Wrap: []string{l.agent, "exec", m.commandAddr(), "--"}, Zap: zapInGuest, Root: "/var/lib/zap", TLS: keysInGuest, Port: lan,
	})
	l.machines = append(l.machines, m)
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if _, err := command(ctx, "", "mkfs.ext4", "-q", "-F", "-L", "data", "-E", "lazy_itable_init=1,lazy_journal_init=1", m.path("data.ext4"), dataSize); err != nil {
		l.t.Fatal(err)
	}
	m.files = []file{{e2e.Binary(l.t), zapInGuest}}
	if _, err := os.Stat(l.Path("keys", s.Name)); err == nil {
		m.files = append(m.files, file{l.Path("keys", s.Name), keysInGuest})
	}
	l.t.Cleanup(m.close)
	return m
}

// close ends the machine. It runs before the laboratory's own end.
func (m *Machine) close() {
	if m.t.Failed() {
		m.printLogs()
	}
	m.Kill()
}

func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *Machine) tap(net string) string { return fmt.Sprintf("%s%d", net, m.number) }

func (m *Machine) commandAddr() string { return fmt.Sprintf("10.99.0.%d", m.number) }

// Start boots the machine, which is off, as s says; its name, disk and addresses stay.
func (m *Machine) Start(s Spec) {
	m.t.Helper()
	if err := m.boot(s); err != nil {
		m.t.Fatalf("boot %s: %v\n%s", m.Name, err, m.console())
	}
}

// boot starts QEMU and waits until the guest runs commands.
func (m *Machine) boot(s Spec) error {
	m.Spec = s
	begin := time.Now()
	args, env, err := m.commandLine()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(m.path("console")); err != nil {
		return err
	}
	log, err := os.OpenFile(m.path("qemu.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(env, "TMPDIR="+m.path("tmp")), log, log
	if err := e2e.StartMortal(cmd); err != nil {
		return err
	}
	ended := make(chan struct{})
	m.mu.Lock()
	m.cmd, m.ended = cmd, ended
	m.mu.Unlock()
	go func() {
		_ = e2e.WaitChild(cmd)
		close(ended)
	}()
	if err := m.awaitAgent(); err != nil {
		return err
	}
	m.t.Logf("%s: Linux %s is up after %.1f s", m.Name, s.Kernel.Release, time.Since(begin).Seconds())
	for _, f := range m.files {
		if err := m.copyIn(f.from, f.to); err != nil {
			return err
		}
	}
	return nil
}

// commandLine is QEMU's, and its environment.
func (m *Machine) commandLine() (args, env []string, err error) {
	s := m.Spec
	if err := m.lab.initrd(s.Kernel, m.path("initrd")); err != nil {
		return nil, nil, err
	}
	accel, err := accelerator(s.CPU, s.Code)
	if err != nil {
		return nil, nil, err
	}
	memory := s.Memory
	if memory == 0 {
		memory = 1024
	}
	program, env := m.lab.qemu.command()
	args = append([]string{"nsenter", "--net=" + m.lab.Switch().Path(), "--"}, program...)
	args = append(append(args, accel...),
		"-name", "zap-"+m.lab.ID+"-"+m.Name, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "pc", "-smp", "1", "-m", fmt.Sprint(memory),
		"-kernel", s.Kernel.image, "-initrd", m.path("initrd"), "-append", kernelWords(s, m.number),
		"-drive", "if=none,id=root,format=raw,snapshot=on,discard=unmap,file="+m.lab.image, "-device", "virtio-blk-pci,drive=root",
		"-drive", "if=none,id=data,format=raw,discard=unmap,file="+m.path("data.ext4"), "-device", "virtio-blk-pci,drive=data",
		"-device", "virtio-rng-pci", "-serial", "file:"+m.path("console"), "-monitor", "none")
	for name, prefix := range map[string]string{"mgmt": "52:54:00:88:00", "lan": "52:54:00:77:00"} {
		args = append(args, "-netdev", fmt.Sprintf("tap,id=%s,ifname=%s,script=no,downscript=no", name, m.tap(name)),
			"-device", fmt.Sprintf("virtio-net-pci,romfile=,netdev=%s,mac=%s:%02x", name, prefix, m.number))
	}
	return args, env, nil
}

// awaitAgent waits until the guest says on its console that it runs commands.
func (m *Machine) awaitAgent() error {
	for deadline := time.Now().Add(bootTimeout); ; time.Sleep(50 * time.Millisecond) {
		said, _ := os.ReadFile(m.path("console"))
		switch {
		case bytes.Contains(said, []byte("zap-agent: ready")):
			return nil
		case !m.On():
			return fmt.Errorf("QEMU ended: %s", lastLines(m.path("qemu.log")))
		case bytes.Contains(said, []byte("zap-agent: broken")), bytes.Contains(said, []byte("Kernel panic")):
			return fmt.Errorf("the guest's system is broken")
		case time.Now().After(deadline):
			return fmt.Errorf("not within %v", bootTimeout)
		}
	}
}

// On says whether the machine is on.
func (m *Machine) On() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return false
	}
	select {
	case <-m.ended:
		return false
	default:
		return true
	}
}

// processorTime is how long the machine's processors have run, which on a busy host is less than the time that went by; 0 when it is off.
func (m *Machine) processorTime() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return 0
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest) // from the third field on, proc_pid_stat(5)
	if err != nil || len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// Kill pulls the machine's plug: what it had not written to its disks is lost.
func (m *Machine) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	<-m.ended
	m.cmd = nil
}

// Shutdown ends the machine as an operator does: what was written is on its disks.
func (m *Machine) Shutdown() {
	m.t.Helper()
	m.Command("sync")
	m.Kill()
}

// Command runs a program in the guest, which must succeed, and answers with its standard output.
func (m *Machine) Command(args ...string) string {
	m.t.Helper()
	var stdout, stderr bytes.Buffer
	code, err := m.Run(commandTimeout, remote.Request{Args: args}, remote.Streams{Stdout: &stdout, Stderr: &stderr})
	if err != nil || code != 0 {
		m.t.Fatalf("on %s: %s: code %d, %v: %s%s", m.Name, strings.Join(args, " "), code, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Run runs a program in the guest for no longer than within and answers with its exit code.
func (m *Machine) Run(within time.Duration, r remote.Request, s remote.Streams) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if !m.On() {
		return -1, fmt.Errorf("run %s on %s: the machine is off", r.Args[0], m.Name)
	}
	conn, err := m.lab.Switch().Dial(m.commandAddr()+":77", 10*time.Second)
	if err != nil {
		return -1, err
	}
	exit, err := remote.Run(ctx, conn, r, s)
	if err != nil {
		return -1, err
	}
	if exit.Error != "" {
		err = fmt.Errorf("run %s: %s", r.Args[0], exit.Error)
	}
	return exit.Code, err
}

// Copy puts a file or a directory of this machine's into the guest.
func (m *Machine) Copy(from, to string) {
	m.t.Helper()
	if err := m.copyIn(from, to); err != nil {
		m.t.Fatal(err)
	}
}

// copyIn has tar(1) on both sides, so that everything about the files stays.
func (m *Machine) copyIn(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	// An archive of the directory's content, or of the one file under its new name.
	pack := []string{"tar", "-C", from, "--xattrs", "-cS", "."}
	into := to
	if !info.IsDir() {
		into = filepath.Dir(to)
		pack = []string{"tar", "-C", filepath.Dir(from), "-c", "--transform", "s|^.*$|" + filepath.Base(to) + "|", filepath.Base(from)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	tar := exec.CommandContext(ctx, pack[0], pack[1:]...)
	archive, err := tar.StdoutPipe()
	if err != nil {
		return err
	}
	if err := e2e.StartChild(tar); err != nil {
		return err
	}
	var stderr bytes.Buffer
	script := fmt.Sprintf("mkdir -p %s && exec tar -C %s -x", into, into)
	code, err := m.Run(commandTimeout, remote.Request{Args: []string{"sh", "-c", script}}, remote.Streams{Stdin: archive, Stderr: &stderr})
	_, _ = io.Copy(io.Discard, archive)
	if packed := e2e.WaitChild(tar); err == nil {
		err = packed
	}
	if err != nil || code != 0 {
		return fmt.Errorf("copy %s to %s on %s: code %d, %w: %s", from, to, m.Name, code, err, stderr.String())
	}
	return nil
}

// console is the end of what the guest's kernel and first process said.
func (m *Machine) console() string { return lastLines(m.path("console")) }

func lastLines(path string) string {
	data, _ := os.ReadFile(path)
	if most := 6 << 10; len(data) > most {
		data = data[len(data)-most:]
	}
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\r", ""))
}
